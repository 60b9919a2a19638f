"""Progress is for people: stdout is for results."""

from pathlib import Path

import hf_mpq.core.progress
from hf_mpq.core import bars, track

ROOT = Path(hf_mpq.core.progress.__file__).parents[1]


def test_bars_are_drawn_on_stderr(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(track([1, 2], "counting")) == [1, 2]
    with bars() as shown:
        shown.advance(shown.add_task("moving", total=1))
    said = capsys.readouterr()
    assert said.out == "" and "counting" in said.err and "moving" in said.err
    assert list(track([1, 2], "counting", disable=True)) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_log_says_how_long_the_rest_takes(monkeypatch, capsys):
    """After the first of several, and again where it takes a quarter longer or less than that."""
    clock = iter([0.0, 10.0, 21.0, 60.0, 80.0])
    monkeypatch.setattr(hf_mpq.core.progress, "perf_counter", lambda: next(clock))
    assert list(track(range(4), "rounding")) == [0, 1, 2, 3]
    said = [line for line in capsys.readouterr().err.splitlines() if "more" in line]
    assert said == ["rounding: about 30 s more", "rounding: about 20 s more"]
    clock = iter([0.0, 1.0, 2.0])
    assert list(track(iter([0, 1]), "scales", total=2)) == [0, 1]
    assert "more" not in capsys.readouterr().err, "what is short anyway"


def test_there_are_no_other_bars():
    users = [path for path in ROOT.rglob("*.py") if "from rich.progress" in path.read_text()]
    assert users == [Path(hf_mpq.core.progress.__file__)]
