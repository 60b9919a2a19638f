"""Output folders: whole or not at all, and nothing else is touched."""

import os
import signal
from pathlib import Path

import pytest
import typer

from hf_mpq.cli.errors import UserError, guarded
from hf_mpq.cli.folders import MANIFEST, new_folder
from tests.moments import moments


def write(folder: Path, content: str) -> Path:
    """As a command: with its list of what it wrote."""
    with new_folder(folder, overwrite=True) as new:
        (new / "file").write_text(content)
    return folder


def theirs(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text(content)
    return folder


def content(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {str(file.relative_to(folder)): file.read_text() for file in files}


def test_neighbours_stay(tmp_path):
    """A user's own folders of the names that tools like to take."""
    names = ("out.old", "out.partial", ".out", ".out.tmp", ".out.hf_mpq-mine")
    neighbours = [theirs(tmp_path / name, name) for name in names]
    for words in ("before", "after"):
        write(tmp_path / "out", words)
    assert content(tmp_path / "out") == {"file": "after"}
    assert {path.name for path in tmp_path.iterdir()} == {"out", *names}
    assert all(content(one) == {"file": one.name} for one in neighbours)


def test_files_of_others_stay(tmp_path):
    """Beside ours, below them, links too; one of a name that is needed is never replaced."""
    write(tmp_path / "out", "before")
    theirs(tmp_path / "out" / "notes", "theirs")
    (tmp_path / "out" / "link").symlink_to("nowhere")
    write(tmp_path / "out", "after")
    assert content(tmp_path / "out") == {"file": "after", "notes/file": "theirs"}
    assert os.readlink(tmp_path / "out" / "link") == "nowhere"
    refused = pytest.raises(UserError, match=r"holds notes/file, which hf-mpq did not write")
    with refused, new_folder(tmp_path / "out", overwrite=True) as folder:
        theirs(folder / "notes", "new")
    assert content(tmp_path / "out") == {"file": "after", "notes/file": "theirs"} and os.listdir(tmp_path) == ["out"]


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
            (folder / "file").write_text("half")
            raise error
    assert content(tmp_path) == {"out/file": "before"} and os.listdir(tmp_path) == ["out"]


def test_killed_while_it_takes_the_place(tmp_path):
    """Whenever it comes, the folder is whole at once, or by the next run."""
    (tmp_path / "work").mkdir()
    write(tmp_path / "work" / "out", "before")
    with moments(tmp_path / "work", tmp_path / "copies") as states:
        write(tmp_path / "work" / "out", "after")
    missing = [state for state in states if not (state / "out").exists()]
    assert len(states) > 4 and len(missing) == 1
    for state in states:
        before = {"before"} if state in missing else {(state / "out" / "file").read_text()}
        with pytest.raises(KeyError), new_folder(state / "out", overwrite=True):
            raise KeyError
        assert set(content(state / "out").values()) == before <= {"before", "after"}
        assert os.listdir(state) == ["out"], "what was left is gone"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_tidy_up(number, tmp_path, monkeypatch):
    """Also where a library makes an error of its own of it."""

    def command() -> None:
        with new_folder(tmp_path / "new" / "out"):
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt as error:
                raise RuntimeError from error

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {one: signal.signal(one, handler) for one, handler in usual.items()}  # a shell's background ignores some
    try:
        with pytest.raises(typer.Exit) as left:
            guarded(command)()
        assert left.value.exit_code == 128 + number and os.listdir(tmp_path) == []
        assert {one: signal.getsignal(one) for one in usual} == usual
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Exception("Full (os error 28)")], ids=str)
def test_a_disk_that_is_full(error, tmp_path, capsys):
    """Of a library in Rust too: a mistake of one line with the name, and no bug."""

    def command() -> None:
        with new_folder(tmp_path / "out"):
            raise error

    with pytest.raises(typer.Exit) as left:
        guarded(command)()
    assert left.value.exit_code == 2 and os.listdir(tmp_path) == []
    assert capsys.readouterr().err == f"error: [Errno 28] No space left on device: '{tmp_path}/out'\n"


def test_a_link_is_replaced_and_not_what_it_points_to(tmp_path):
    theirs(tmp_path / "theirs", "theirs")
    (tmp_path / "out").symlink_to("theirs")
    write(tmp_path / "out", "after")
    assert content(tmp_path / "theirs") == {"file": "theirs"} and content(tmp_path / "out") == {"file": "after"}
    assert not (tmp_path / "out").is_symlink() and sorted(os.listdir(tmp_path)) == ["out", "theirs"]


def test_no_names_for_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".", "there/.."):
        with pytest.raises(UserError, match="give --out the name of a folder"), new_folder(Path(name)):
            pass
    assert os.listdir(tmp_path) == []


def test_what_somebody_saved_over_ours_stays(tmp_path):
    """A model that was trained and saved into the folder of an earlier one has the same names."""
    write(tmp_path / "out", "before")
    theirs(tmp_path / "out", "a week of training")
    refused = pytest.raises(UserError, match=r"holds file, which .* somebody changed since")
    with refused, new_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "file").write_text("after")
    assert content(tmp_path / "out") == {"file": "a week of training"}
    with new_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "other").write_text("after")
    assert content(tmp_path / "out") == {"file": "a week of training", "other": "after"}
