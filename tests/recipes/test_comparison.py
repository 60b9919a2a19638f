"""The comparison of methods: its statistics by hand, its report, and a small one end to end."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModel

from tests.tiny import tiny_model

KEYS = ("task", "method", "variant", "budget", "seed")


def row_of(method, seed=0, budget="2bits", variant="", task="sst2", score=80.0, **more):
    key = dict(zip(KEYS, (task, method, variant, budget, seed)))
    return {
        **key,
        "score": score,
        "unseen_kl": 0.01,
        "unseen_agreement": 95.0,
        "code_bits": 2.0,
        "megabytes": 7.0,
        "seconds": 10.0,
        **more,
    }


def key_of(row):
    return {name: row[name] for name in KEYS}


# Statistics


def test_pairs_cancel_what_rows_have_in_common():
    from comparison import paired

    random = np.random.default_rng(2)
    hard = random.exponential(10, (2, 300))  # rows differ far more than methods
    first = hard + random.normal(0.1, 0.1, (2, 300))
    mean, low, high = paired(list(first), list(hard))
    assert low < mean < high and mean == pytest.approx((first - hard).mean())
    assert low > 0.05 and high < 0.15
    assert paired(list(hard), list(hard)) == (0.0, 0.0, 0.0)
    noise = [random.normal(0, 1, 300) for _ in range(2)]
    _, low, high = paired(noise, [np.zeros(300)] * 2)
    assert low < 0 < high


# The report


def test_the_table_has_means_over_seeds_and_the_float_model():
    from comparison import _table

    rows = [
        row_of("mpq", 0, score=80.0),
        row_of("mpq", 1, score=90.0),
        row_of("mpq", 2, score=10.0),
        row_of("float", budget="", score=91.0, megabytes=90.0),
    ]
    lines = _table(rows, [key_of(row) for row in rows[:2]]).splitlines()
    assert lines[2].startswith("| sst2 | | float | 91.00 |")
    assert lines[3].startswith("| sst2 | 2bits | mpq | 85.00 ± ") and lines[3].endswith("| 2 | 10 |")
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1


def test_what_is_missing_is_named_with_the_command_of_its_kind():
    from comparison import _missing

    config = {"config": {"bits": [2, 4]}, "epochs": 2.0, "data_dir": "my data"}
    rows = [row_of("mpq", variant="few", settings=config), row_of("uniform", settings={})]
    wanted = [
        key_of(row_of("mpq", 1, variant="few")),
        key_of(rows[0]),
        key_of(row_of("q8")),
        key_of(row_of("mpq", variant="unknown")),
    ]
    lines = _missing(rows, wanted, {"epochs": 5.0}).splitlines()
    assert [line.partition(": `")[0] for line in lines[:2]] == ["- not run"] * 2
    first = shlex.split(lines[0].partition("`")[2].rstrip("`"))
    assert first[first.index("--seeds") + 1] == "1" and first[first.index("--variant") + 1] == "few"
    assert json.loads(first[first.index("--config") + 1]) == {"bits": [2, 4]}
    assert first[first.index("--epochs") + 1] == "2.0" and first[first.index("--data_dir") + 1] == "my data"
    assert "--methods q8" in lines[1] and "--epochs 5.0" in lines[1]
    assert "no row says what `unknown` changes" in lines[2] and len(lines) == 3


def test_methods_are_compared_on_the_same_rows(tmp_path):
    from comparison import _intervals

    keys = [key_of(row_of(method)) for method in ("mpq", "uniform")]
    (tmp_path / "kl").mkdir()
    for key, shift in zip(keys, (0.0, 0.5)):
        np.save(tmp_path / "kl" / f"sst2-{key['method']}-2bits-0.npy", np.arange(50.0) + shift)
    assert _intervals(keys, tmp_path) == (
        "- sst2, 2bits: KL of uniform minus that of mpq: 0.5000 (0.5000 to 0.5000), 1 seed(s), 50 rows"
    )


# End to end


@pytest.fixture
def small(tmp_path, tokenizer, docstrings, monkeypatch):
    """Arguments of a comparison over a few sentences that starts from a tiny model."""
    import study

    texts = docstrings["train"]["text"][:40]
    rows = Dataset.from_list([{"sentence": text[:80], "label": k % 2} for k, text in enumerate(texts)])
    (tmp_path / "data" / "sst2").mkdir(parents=True)
    for split in ("train", "validation"):
        rows.to_json(tmp_path / "data" / "sst2" / f"{split}.jsonl")
    model = tiny_model("bert", vocab_size=len(tokenizer), max_position_embeddings=128, pad_token_id=0)
    model.save_pretrained(tmp_path / "pretrained")
    tokenizer.save_pretrained(tmp_path / "pretrained")
    monkeypatch.setattr(study, "get_model_path", lambda: str(tmp_path / "pretrained"))
    return [
        "--data_dir",
        str(tmp_path / "data"),
        "--models",
        str(tmp_path / "float"),
        "--out",
        str(tmp_path / "out"),
        "--tasks",
        "sst2",
        "--epochs",
        "1",
        "--float_epochs",
        "1",
        "--batch_size",
        "8",
        "--train_rows",
        "32",
        "--selection_examples",
        "8",
        "--variant",
        "two",
    ]


def test_a_comparison_runs_and_the_command_of_a_missing_row_makes_it_again(small, tmp_path):
    from compare_methods import main

    changes = ["--config", '{"bits": [2, 4], "groups": 4}', "--stages", '{"qat": {"arguments": {"weight_decay": 0.1}}}']
    main([*small, *changes, "--methods", "mpq", "uniform", "--budgets", "3bits"])
    out, file = tmp_path / "out", tmp_path / "out" / "results.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["method"] for row in rows] == ["float", "mpq", "uniform"]
    assert all(row["code_bits"] <= 3 + 1e-6 and row["unseen_kl"] > 0 for row in rows[1:])
    assert all(row["machine"] and row["commit"] and "torch" in row["versions"] for row in rows)
    assert all(row["float_score"] == rows[0]["score"] and row["train_rows"] == 32 for row in rows[1:])
    report = (out / "report.md").read_text()
    assert "| uniform (two) |" in report and "not run" not in report and (out / "pareto.png").stat().st_size > 5000

    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    main(
        [
            *small[:6],
            "--tasks",
            "sst2",
            "--variant",
            "two",
            "--methods",
            "mpq",
            "uniform",
            "--budgets",
            "3bits",
            "--table",
        ]
    )
    (line,) = [line for line in (out / "report.md").read_text().splitlines() if "not run" in line]
    assert "no row says what `two` changes" in line, "only mpq's is known"
    main(shlex.split(rows[2]["command"])[2:])
    again = [json.loads(line) for line in file.read_text().splitlines()][2]
    del again["seconds"], rows[2]["seconds"]
    assert again == rows[2]


@pytest.mark.full
def test_a_method_begins_from_another_checkpoint_and_is_timed(small, tmp_path):
    """A sparse one keeps its zeros, and the task's float model judges and teaches."""
    from compare_methods import main
    from keep_rows import without_places

    sparse = AutoModel.from_pretrained(tmp_path / "pretrained")
    with torch.no_grad():
        for layer in sparse.encoder.layer:
            layer.output.dense.weight[:, ::2] = 0
    sparse.save_pretrained(tmp_path / "sparse")
    taught = {"objectives": {"soft-labels": {}}}
    given = ["--methods", "prune-ofa", "--budgets", "8bits", "--student", str(tmp_path / "sparse"), "--time", "1x16"]
    main([*small, *given, "--stages", json.dumps({"transfer": taught, "qat": taught})])
    row = json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[1])
    assert row["unseen_kl"] > 0 and min(row["milliseconds"], row["share"], row["float_share"]) > 0
    assert row["code_bits"] < 8 and "--student" in row["command"]
    assert without_places(row)["settings"]["student"] == "SPARSE"
    with pytest.raises(SystemExit, match="student"):
        main([*small, *given[:4], "--seeds", "1"])


@pytest.mark.full
def test_channel_expansion_stands_beside_uniform_at_the_bytes_of_2_bits(small, tmp_path):
    """Its budget is that of the original widths, whatever it has become."""
    from compare_methods import main

    main([*small, "--config", '{"groups": 6}', "--methods", "channel-expansion", "uniform", "--budgets", "2bits"])
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    wider, plain = rows[1:]
    assert (wider["method"], plain["method"]) == ("channel-expansion", "uniform") and wider["code_bits"] < 2
    assert 0.9 < wider["megabytes"] / plain["megabytes"] < 1.03


@pytest.mark.full
def test_one_super_net_has_the_rows_of_all_budgets_and_what_it_finds_is_trained_on_its_own(small, tmp_path):
    from compare_methods import main

    call, own = (
        [*small[:-2], "--budgets", "3bits", "2.5bits"],
        ["--assignments_of", "weight-coupling", "--methods", "uniform"],
    )
    quick = {"paths": 1, "allocator": {"name": "bidirectional", "measured": 1, "patience": 0}}
    base = {"objectives": {"task": {}}, "schedules": {"turbulence": {"share": 0}}, "strategy_options": quick}
    coupled = [*call, "--methods", "weight-coupling", "--stages"]
    main([*coupled, json.dumps({"supernet": {"strategy_options": quick}})])
    main([*coupled, json.dumps({"supernet": base}), "--variant", "base"])
    assert not list((tmp_path / "out/runs").iterdir()), "one folder for both budgets"
    main([*call, *own, "--variant", "own"])
    rows = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()][1:]
    kinds = [("weight-coupling", ""), ("weight-coupling", "base"), ("uniform", "own")]
    expected = [(*kind, budget) for kind in kinds for budget in ("3bits", "2.5bits")]
    assert [(row["method"], row["variant"], row["budget"]) for row in rows] == expected
    assert all(row["code_bits"] <= float(row["budget"].removesuffix("bits")) for row in rows)
    for name in ("code_bits", "megabytes"):
        assert [row[name] for row in rows[:2]] == [row[name] for row in rows[4:]], "the same precisions"
    assert all(ours["unseen_kl"] != theirs["unseen_kl"] for ours, theirs in zip(rows[:2], rows[4:])), "other weights"
    assert "--assignments_of weight-coupling" in rows[-1]["command"]
    shown = ["--methods", "weight-coupling", "--variant", "", "base", "--table", "--against", "weight-coupling"]
    main([*call, *shown])
    report = (tmp_path / "out/report.md").read_text()
    assert report.count("KL of weight-coupling (base) minus that of weight-coupling:") == 2 and "not run" not in report
    with pytest.raises(SystemExit):
        main([*call, *own, "--variant", "one", "two"])
    with pytest.raises(SystemExit, match="first run --methods weight-coupling"):
        main([*call, *own, "--seeds", "5", "--variant", "own"])


def test_a_run_is_kept_until_its_row_is_written(small, tmp_path, monkeypatch):
    import compare_methods
    import study

    call = [*small, "--methods", "uniform", "--budgets", "3bits"]
    folder = tmp_path / "out/runs/sst2-uniform-two-3bits-0"
    judged = study.Study.judge

    def judge(self, model):
        if folder.exists():
            raise KeyboardInterrupt
        return judged(self, model)

    with monkeypatch.context() as once, pytest.raises(KeyboardInterrupt):
        once.setattr(study.Study, "judge", judge)
        compare_methods.main(call)
    trained = (folder / "stages.json").read_text()
    assert '"qat"' in trained

    def killed(place, **options):
        if Path(place).name.startswith(folder.name) and Path(place).exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as once, pytest.raises(KeyboardInterrupt):
        once.setattr(compare_methods.shutil, "rmtree", killed)
        compare_methods.main(call)
    rows = (tmp_path / "out/results.jsonl").read_text()
    assert [json.loads(line)["method"] for line in rows.splitlines()] == ["float", "uniform"]
    assert (tmp_path / f"out/kl/{folder.name}.json").read_text() == trained, "not trained again"
    assert not folder.exists()
    compare_methods.main(call)
    assert (tmp_path / "out/results.jsonl").read_text() == rows and not list(folder.parent.iterdir())


def test_rows_of_other_settings_are_not_put_beside_each_other(small, tmp_path):
    from compare_methods import main

    (tmp_path / "out").mkdir()
    row = row_of(
        "mpq",
        variant="two",
        settings={"epochs": 2.0, "batch_size": 8, "train_rows": 32, "float_epochs": 1.0, "selection_examples": 8},
    )
    (tmp_path / "out" / "results.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SystemExit, match=r"other settings \(epochs 2\.0, now 1\.0\): name this --variant"):
        main([*small, "--methods", "uniform", "--budgets", "3bits"])
