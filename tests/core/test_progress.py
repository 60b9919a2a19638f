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


def test_there_are_no_other_bars():
    users = [path for path in ROOT.rglob("*.py") if "from rich.progress" in path.read_text()]
    assert users == [Path(hf_mpq.core.progress.__file__)]
