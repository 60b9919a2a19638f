"""The leaderboard's rows, lines, tables and chart, without the app."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from hf_mpq.report.board.chart import chart_points, fingerprint, retained_chart, save_chart
from hf_mpq.report.board.intervals import pairs_of
from hf_mpq.report.board.lines import chosen, lines_of
from hf_mpq.report.board.sources import ROWS, Source, read_sources
from hf_mpq.report.board.tables import Table, kept, leaderboard, question_tables
from hf_mpq.report.figures.pareto import _style
from hf_mpq.report.figures.theme import LIGHT
from hf_mpq.tasks import TASKS as KNOWN_TASKS
from tests.report.pictures import drawn, words


def row(method="mpq", seed=0, score=80.0, budget="2bits", task="mrpc", variant="", **more) -> dict:
    """As `benchmarks/compare_methods.py` writes it."""
    key = {"task": task, "method": method, "variant": variant, "budget": budget, "seed": seed}
    return {
        **key,
        "score": score,
        "unseen_kl": 0.1,
        "unseen_agreement": 90.0,
        "code_bits": 2.0,
        "megabytes": 7.0,
        **more,
    }


def whole(score=100.0, **more) -> dict:
    """The row of a float model."""
    return row("float", 0, score, budget="", **{"megabytes": 90.0, "code_bits": None, "unseen_kl": 0.0, **more})


def source(*rows, name="one", **more) -> Source:
    return Source(name, rows, **more)


def by_name(lines) -> dict:
    return {line.name: line for line in lines}


# What is read


def test_sources_are_folders_of_rows_and_one_may_be_named_itself(tmp_path):
    assert read_sources(tmp_path) == [], "nothing measured yet"
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.jsonl").write_text(json.dumps(row()) + "\n\n")
    (tmp_path / "b" / "about.yaml").write_text("notes: words\n")
    assert [(one.name, len(one.rows), dict(one.about)) for one in read_sources(tmp_path)] == [
        ("a", 1, {}),
        ("b", 1, {"notes": "words"}),
    ]
    assert [one.name for one in read_sources(tmp_path / "b")] == ["b"]


@pytest.mark.parametrize("line, words", [("{", "line 2 is no JSON"), ("[1]", "line 2 is no JSON object, but list")])
def test_a_damaged_line_is_named(line, words, tmp_path):
    (tmp_path / "results.jsonl").write_text(f"{json.dumps(row())}\n{line}\n")
    with pytest.raises(ValueError, match=words):
        read_sources(tmp_path)


def test_a_line_that_is_being_written_is_no_row_yet(tmp_path):
    (tmp_path / "results.jsonl").write_text(f'{json.dumps(row())}\n{{"method": "un')
    assert len(read_sources(tmp_path)[0].rows) == 1
    (tmp_path / "results.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match=r"results\.jsonl is no text in UTF-8"):
        read_sources(tmp_path)


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere: give one with NAME/results\.jsonl"):
        read_sources(tmp_path / "nowhere")


def test_committed_rows_say_where_they_come_from():
    sources = read_sources(ROWS)
    assert len(sources) > 20 and all(one.rows for one in sources)
    for one in sources:
        for found in one.rows:
            if found.get("method") != "float":
                assert {"command", "commit", "machine", "versions"} <= set(found), one.name
            assert not re.search(r"(?<![\w.])/\w", json.dumps(found)), (
                f"{one.name} names a place of a machine: python benchmarks/keep_rows.py {one.name} OUT takes it out"
            )
    known = Counter(
        json.dumps([one.name, found], sort_keys=True)
        for one in sources
        for found in one.rows
        if found.get("seed", 0) is not None
    )
    assert max(known.values()) == 1, "the same row twice"


# Lines


def test_seeds_are_a_mean_with_its_spread_and_one_alone_has_none():
    rows = [
        whole(90.0),
        row(seed=0, score=80.0),
        row(seed=1, score=81.0),
        row(seed=2, score=85.0),
        row("q8", score=45.0),
    ]
    found = by_name(lines_of([source(*rows)]))
    assert found["mpq"].score.mean == pytest.approx(82.0) and found["mpq"].seeds == 3
    assert found["mpq"].score.half == pytest.approx(2.5), "of three values the interval of the mean is their range"
    assert found["mpq"].retained.mean == pytest.approx(100 * 82 / 90)
    assert found["mpq"].retained.half == pytest.approx(100 * 2.5 / 90)
    assert (found["q8"].seeds, found["q8"].score.half, found["q8"].retained.mean) == (1, None, 50.0)
    assert found["mpq"].score.text(1) == "82.0 ± 2.5" and found["q8"].score.text(1) == "45.0"


def test_rows_that_are_means_themselves_keep_their_spread_and_what_is_unknown_stays_so():
    told = row(seeds=3, score_half=0.5, unseen_agreement=None)
    del told["megabytes"]
    (line,) = lines_of([source(told)])
    assert (line.seeds, line.score.half, line.agreement, line.megabytes, line.retained) == (3, 0.5, None, None, None)
    assert leaderboard([line]).head == ["budget", "method", "score", "KL", "encoder bits", "seeds", "run"]


def test_sources_models_and_variants_are_not_mixed_and_each_has_its_own_float_model():
    first = source(
        whole(80.0), row(score=40.0), row(score=60.0, variant="long"), whole(50.0, model="x"), row(model="x")
    )
    other = source(whole(100.0), row(score=40.0), name="other")
    lines = lines_of([first, other])
    shares = {(line.source, line.model, line.name): line.retained.mean for line in lines if line.method != "float"}
    assert shares == {
        ("one", "all-MiniLM-L6-v2", "mpq"): 50.0,
        ("one", "all-MiniLM-L6-v2", "mpq (long)"): 75.0,
        ("one", "x", "mpq"): 160.0,
        ("other", "all-MiniLM-L6-v2", "mpq"): 40.0,
    }


def test_rows_of_a_sweep_bring_their_float_score_model_and_data(tmp_path):
    settings = {"model": "../models/{task}-mpnet", "data_dir": None}
    more = {"settings": settings, "train_rows": 32, "dev_rows": 8, "float_score": 50.0}
    (tmp_path / "kl").mkdir()
    rows = [row(name, run=f"run-{name}", score=40.0, **more) for name in ("mpq", "q8")]
    for name in ("mpq", "q8"):
        np.save(tmp_path / "kl" / f"run-{name}.npy", np.arange(4.0))
    one = source(*rows, folder=tmp_path)
    line = lines_of([one])[0]
    assert (line.model, line.retained.mean) == ("mpnet", 80.0)
    assert line.origin["data"] == "32 rows to train on, 8 rows scored" and [pair.mean for pair in pairs_of([one])] == [
        0.0
    ]
    places = {"../models/{task}": "models", "me/mpnet": "mpnet", "MPNet": "MPNet"}
    for place, model in places.items():
        assert lines_of([source(row(settings={"model": place}))])[0].model == model


def test_the_newest_source_comes_first():
    rows = {
        "a": {"commit": None},
        "b": {"commit": "1", "date": "2026-01-02"},
        "c": {"commit": "1", "date": "2026-01-01"},
    }
    lines = lines_of([source(row(**more), name=name) for name, more in rows.items()])
    assert [line.source for line in lines] == ["b", "c", "a"]


def test_lines_are_chosen_by_what_they_are_and_float_models_stay():
    rows = [
        row(method, budget=budget, task=task)
        for method in ("mpq", "q8")
        for budget in ("2bits", "3bits")
        for task in ("rte", "mrpc")
    ]
    lines = lines_of([source(whole(), whole(task="rte"), *rows)])
    assert len(chosen(lines)) == len(chosen(lines, task=None, method=[])) == 10
    assert {line.task for line in chosen(lines, task="rte")} == {"rte"}
    found = chosen(lines, method=["mpq"], budget="3bits", task=["mrpc"])
    assert [line.name for line in found] == ["float", "mpq"]
    with pytest.raises(ValueError, match="cannot be chosen by 'tasks': give one of source, model, task"):
        chosen(lines, tasks="rte")


# Tables


def test_the_leaderboard_is_sorted_by_budget_and_distance_with_paired_differences(tmp_path):
    (tmp_path / "kl").mkdir()
    rows = [whole()]
    for method, shift in (("uniform", 0.5), ("mpq", 0.0)):
        for seed in range(2):
            rows.append(row(method, seed, unseen_kl=shift))
            np.save(tmp_path / "kl" / f"mrpc-{method}-2bits-{seed}.npy", np.arange(50.0) * (1 + seed) + shift)
    one = source(*rows, row("mpq", budget="3bits"), row("q8", variant="long"), folder=tmp_path)
    (pair,) = pairs_of([one])
    assert (pair.method, pair.against, pair.mean, pair.low, pair.high) == ("uniform", "mpq", 0.5, 0.5, 0.5)
    assert (pair.seeds, pair.rows) == (2, 50)
    table = leaderboard(lines_of([one]), [pair])
    assert [line[:2] for line in table.body] == [
        ["", "float"],
        ["3bits", "`mpq`"],
        ["2bits", "`mpq`"],
        ["2bits", "`q8 (long)`"],
        ["2bits", "`uniform`"],
    ]
    assert table.head[-3] == "KL minus that of `mpq` (95 %)"
    assert [line[-3] for line in table.body] == [""] * 4 + ["0.5000 (0.5000 to 0.5000)"]
    other = source(*rows, folder=tmp_path, about={"against": "uniform"})
    assert [(pair.method, pair.mean) for pair in pairs_of([other])] == [("mpq", -0.5)]
    told = {"task": "mrpc", "budget": "2bits", "method": "q8 (long)", "against": "mpq", "mean": 1, "low": 0, "high": 2}
    assert pairs_of([source(intervals=({**told, "from": "a page"},))])[0].seeds is None


def test_methods_are_ranked_by_tasks_that_others_have_too():
    rows = [whole(task=task) for task in ("mrpc", "squad")]
    rows += [
        row("mpq", score=99.0),
        row("uniform", score=98.0),
        row("mpq", score=10.0, task="squad"),
        row(budget="9bits"),
    ]
    tables = kept(lines_of([source(*rows)]))
    assert [budget for _, budget in tables] == ["9bits", "2bits"]
    table = tables["all-MiniLM-L6-v2", "2bits"]
    assert table.head == ["method", "MRPC, F1", "SQuAD, F1"]
    assert table.body == [["`mpq`", "99.0", "10.0"], ["`uniform`", "98.0", ""]]
    assert kept([]) == {}
    two_methods = kept(lines_of([source(*rows)]), least=2)
    assert list(two_methods) == [("all-MiniLM-L6-v2", "2bits")]
    assert two_methods["all-MiniLM-L6-v2", "2bits"].head == ["method", "MRPC, F1"], "not the tasks of one alone"
    two = kept(lines_of([source(*rows), source(whole(50.0), row(score=40.0), name="two")]))["all-MiniLM-L6-v2", "2bits"]
    assert two.head == ["method", "MRPC, F1 (two)", "MRPC, F1 (one)", "SQuAD, F1"] and two.body[0][1:3] == [
        "80.0",
        "99.0",
    ]


def test_cells_do_not_break_a_table():
    assert Table(["a"], [["x|y"]]).markdown() == "| a |\n| --- |\n| x\\|y |" and Table(["a"], []).markdown() == ""


ABOUT = {
    "line": {"engine": "engine", "what": "what"},
    "across": "shape",
    "cell": ["{ms:.1f} ({ratio:.2f})", "{ms:.1f}"],
    "columns": {"MB": "{mb:.0f}", "never": "{none}"},
    "heads": {"1x8": "short"},
    "each": "threads",
}
ROWS_OF_A_QUESTION = (
    {"engine": "a", "what": None, "shape": "1x8", "ms": 1.0, "ratio": 0.5, "mb": 3, "threads": 1, "none": None},
    {"engine": "a", "what": None, "shape": "1x9", "ms": 2.0, "ratio": None, "mb": None, "threads": 1},
    {"engine": "b", "what": None, "shape": "1x9", "ms": 4.0, "threads": 2},
)


def test_a_question_has_tables_of_its_own_layout():
    tables = question_tables(source(*ROWS_OF_A_QUESTION, about=ABOUT))
    assert tables["1"] == Table(["engine", "short", "1x9", "MB"], [["a", "1.0 (0.50)", "2.0", "3"]])
    assert tables["2"] == Table(["engine", "1x9"], [["b", "4.0"]])
    with pytest.raises(ValueError, match=r"one/about.yaml names 'lenght', which no row has"):
        question_tables(source(*ROWS_OF_A_QUESTION, about={**ABOUT, "across": "lenght"}))


# The chart


def test_the_chart_has_a_picture_for_each_task_and_one_legend(tmp_path):
    rows = [whole(task=task) for task in ("sst2", "mrpc", "rte")]
    rows += [
        row(method, seed, 90.0 + seed, task=task)
        for method in ("mpq", "uniform")
        for seed in (0, 1)
        for task in ("sst2", "mrpc")
    ]
    lines = lines_of([source(*rows, row("q8", task="stsb"), row("q8", megabytes=None))])
    figure = retained_chart(lines)
    assert [axis.get_title() for axis in figure.axes] == ["MRPC, F1", "SST-2, accuracy"], "without points no picture"
    assert [point.y for point in chart_points(lines)] == [90.5] * 4 and drawn(figure).std() > 0
    other = lines_of([source(*rows), source(whole(), row(), name="two")])
    titles = {point.task for point in chart_points(other)}
    assert titles == {"MRPC, F1, one", "MRPC, F1, two", "SST-2, accuracy"}, (
        "only what was trained alike shares a picture"
    )
    assert {point.task for point in chart_points(other, least=2)} == {"MRPC, F1", "SST-2, accuracy"}
    assert len(figure.legends) == 1 and all(axis.get_legend() is None for axis in figure.axes)
    assert all(axis.get_ylim()[0] <= 90 and axis.get_ylim()[1] >= 101 for axis in figure.axes)
    assert "% of the float model's score" in words(figure) and "float" in words(figure)
    for name in ("first.svg", "second.svg"):
        save_chart(lines, tmp_path / name)
    text = (tmp_path / "first.svg").read_text()
    assert text == (tmp_path / "second.svg").read_text() and fingerprint(lines) in text
    assert fingerprint(lines) != fingerprint(chosen(lines, method="mpq"))
    three = retained_chart(other)
    assert [axis.get_visible() for axis in three.axes] == [True, True, True, False], "no empty picture"
    with pytest.raises(ValueError, match="nothing to draw"):
        retained_chart(chosen(lines, task="rte"))


def test_lines_of_a_chart_can_be_told_apart():
    styles = [(style["color"], style["marker"]) for style in (_style(number, LIGHT) for number in range(40))]
    assert len(set(styles)) == 40


def test_headlines_of_tasks_are_named():
    from hf_mpq.report.board.lines import TASKS

    words = {"matthews_correlation": "Matthews", "f1": "F1", "accuracy": "accuracy", "spearmanr": "Spearman"}
    for name, title in TASKS.items():
        assert title.rpartition(", ")[2] == words[KNOWN_TASKS[name].headline], name
