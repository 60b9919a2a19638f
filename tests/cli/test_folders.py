"""Output folders: whole or not at all, and nothing else is touched."""

import os
from pathlib import Path

import pytest

from hf_mpq.cli.errors import UserError
from hf_mpq.cli.folders import new_folder


def write(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text(content)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_neighbours_stay(tmp_path):
    """A user's own folders of the names that tools like to take."""
    theirs = [write(tmp_path / name, name) for name in ("out.old", "out.partial", ".out", ".out.tmp")]
    write(tmp_path / "out", "before")
    with new_folder(tmp_path / "out", overwrite=True) as folder:
        write(folder, "after")
    assert content(tmp_path / "out") == {"file": "after"}
    assert {path.name for path in tmp_path.iterdir()} == {"out", *(one.name for one in theirs)}
    assert all(content(one) == {"file": one.name} for one in theirs)


def test_permissions_are_those_of_any_folder(tmp_path):
    before = os.umask(0o027)
    try:
        with new_folder(tmp_path / "out"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failures_leave_everything_as_it_was(error, tmp_path):
    write(tmp_path / "out", "before")
    for path in (tmp_path / "out", tmp_path / "new" / "deep" / "out"):
        with pytest.raises(error), new_folder(path, overwrite=True) as folder:
            write(folder, "half")
            raise error
    assert content(tmp_path) == {"out/file": "before"} and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("moment", ["old", "new"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_interrupted_while_it_takes_the_place(moment, done, tmp_path, monkeypatch):
    """Whenever it comes, one of the two is there, whole."""
    replace = Path.replace

    def interrupted(source: Path, target: Path):
        if (target.name == "old") != (moment == "old"):
            return replace(source, target)
        monkeypatch.undo()
        if done:
            replace(source, target)
        raise KeyboardInterrupt

    write(tmp_path / "out", "before")
    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out", overwrite=True) as folder:
        write(folder, "after")
    assert content(tmp_path) == {"out/file": "after" if (moment, done) == ("new", True) else "before"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_link_is_replaced_and_not_what_it_points_to(tmp_path):
    write(tmp_path / "theirs", "theirs")
    (tmp_path / "out").symlink_to("theirs")
    with new_folder(tmp_path / "out", overwrite=True) as folder:
        write(folder, "after")
    assert content(tmp_path / "theirs") == {"file": "theirs"} and content(tmp_path / "out") == {"file": "after"}
    assert not (tmp_path / "out").is_symlink() and sorted(os.listdir(tmp_path)) == ["out", "theirs"]


def test_no_names_for_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".", "there/.."):
        with pytest.raises(UserError, match="give --out the name of a folder"), new_folder(Path(name)):
            pass
    assert os.listdir(tmp_path) == []
