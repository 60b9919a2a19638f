"""What the leaderboard's app shows; the app itself where gradio is installed."""

import json
import sys
from importlib.util import find_spec
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner

from hf_mpq.cli.main import app as command
from hf_mpq.report.board.sources import Source
from hf_mpq.report.board.view import CHOICES, Board
from tests.report.test_board import ABOUT, ROWS_OF_A_QUESTION, row, whole

ASIDE = {**ABOUT, "question": "How fast?", "before": "Milliseconds.", "notes": "Busy."}
RUN = ({**ROWS_OF_A_QUESTION[0], "command": "python x.py"}, *ROWS_OF_A_QUESTION[1:])


@pytest.fixture
def sources() -> list[Source]:
    rows = [row(method, budget=budget) for method in ("mpq", "q8") for budget in ("2bits", "3bits")]
    return [
        Source("one", (whole(), whole(task="rte"), *rows, row(task="rte", megabytes=None, variant="long"))),
        Source("two", RUN, ASIDE),
    ]


def _colour(chart) -> str:
    (bars,) = [bars for bars in chart.axes[0].containers if bars.get_label() == "q8"]
    return bars.lines[0].get_color()


def test_a_choice_gives_a_table_a_chart_and_words(sources):
    board = Board(sources)
    assert {name: [value for _, value in choices] for name, choices in board.choices().items()} == {
        "task": ["mrpc", "rte"],
        "budget": ["3bits", "2bits"],
        "name": ["mpq", "q8", "mpq (long)"],
        "model": ["all-MiniLM-L6-v2"],
        "source": ["one"],
    }
    assert ("MRPC, F1", "mrpc") in board.choices()["task"] and set(board.choices()) == set(CHOICES)
    everything = board.view(task=[], budget=None)
    assert len(everything.table.body) == 7 and everything.words.startswith("5 lines, 4 in the chart")
    assert [axis.get_title() for axis in everything.chart.axes] == ["MRPC, F1"]
    assert board.view(task="mrpc").words == "4 lines."
    colours = [_colour(board.view(name=names).chart) for names in ([], ["q8"])]
    assert colours[0] == colours[1], "whatever else is shown"
    undrawn = board.view(task=["rte"])
    assert undrawn.chart is None and len(undrawn.table.body) == 2
    nothing = board.view(task=["rte"], name=["q8"])
    assert nothing.table.body == [] and nothing.chart is None and nothing.words.startswith("No rows")
    assert Board([]).view().table.body == [] and Board([]).questions() == []


def test_other_questions_are_answered_in_markdown(sources):
    board = Board(sources)
    assert board.questions() == ["How fast?"]
    text = board.answer("How fast?")
    assert text.startswith("Milliseconds.\n\n### 1\n\n| engine |") and "Busy.\n\n```\npython x.py\n```" in text
    with pytest.raises(ValueError, match=r"no rows answer 'Why\?'; there are: How fast\?"):
        board.answer("Why?")


# The command


def said(*words: str, code: int = 0):
    result = CliRunner().invoke(command, ["leaderboard", *words])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (whole(), row(), row("q8"))))
    return tmp_path


def test_the_table_in_a_terminal_needs_no_app(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "| 2bits | `mpq` |" in said("--table", str(folder)).stdout
    assert "`mpq`" not in said("--table", str(folder), "--method", "q8").stdout
    error = said("--table", str(folder), "--method", "q9", code=2).stderr
    assert error.startswith("error: there are no rows of method q9 in ")
    assert "pip install 'hf_mpq[app]'" in said(str(folder), code=2).stderr
    assert "go with --table" in said(str(folder), "--task", "mrpc", code=2).stderr
    assert "there is no folder" in said(str(folder / "nowhere"), code=2).stderr


def test_rows_that_come_with_the_package_are_shown():
    assert "`mpq`" in said("--table", "--task", "mrpc", "--method", "mpq").stdout


# The app

needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="pip install -e '.[app]'")


@needs_gradio
def test_the_app_serves_what_the_functions_say(sources):
    from hf_mpq.report.board.app import launch, make_app

    app = make_app(sources)
    address = launch(app, browser=False)
    try:
        with urlopen(address) as page:
            text = page.read().decode()
        assert address.startswith("http://127.0.0.1:") and "hf_mpq leaderboard" in text and "How fast?" in text
        with pytest.raises(OSError, match="port"):
            launch(make_app(sources), int(address.rstrip("/").rpartition(":")[2]), browser=False)
    finally:
        app.close()
