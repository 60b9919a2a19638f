"""Where the built kernel is kept, which file is run, and what becomes of a build that fails."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_mpq.runtime.int8 import build, compiler
from hf_mpq.runtime.int8.seal import intact, seal

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes of files are POSIX")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty place for the kernel, and a compiler that writes what a real one takes a minute for."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
    monkeypatch.setenv("CXX", _script(tmp_path, "c++", "while [ $1 != -o ]; do shift; done; echo code >$2"))
    monkeypatch.setattr(build, "_imported", lambda file: file.read_text())
    return tmp_path / "built"


def _script(folder: Path, name: str, text: str) -> str:
    """The path of an executable shell script."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def prepared() -> str | None:
    """What `kernel` gives in a new process."""
    return build.kernel.__wrapped__()


def test_it_is_built_once_and_found_again(folder, monkeypatch):
    assert build.state() == "not built" and not folder.exists()
    assert prepared() == "code\n" and build.state() == "built"
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert prepared() == "code\n" and build.state() == "built"


def test_of_several_processes_one_builds(folder, tmp_path, monkeypatch):
    slow = f"echo >>{tmp_path}/calls; sleep 0.3; exec {os.environ['CXX']} $*"
    monkeypatch.setenv("CXX", _script(tmp_path, "slow", slow))
    build._file().parent.joinpath("building-killed").mkdir(parents=True)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: prepared(), range(4))) == ["code\n"] * 4
    assert (tmp_path / "calls").read_text() == "\n" and not list(build._file().parent.glob("building-*"))


def test_a_prebuilt_one_needs_no_folder_to_write_to(folder, monkeypatch):
    prepared()
    build._file().parent.joinpath("building.lock").unlink()
    monkeypatch.setattr(build, "FileLock", None)
    monkeypatch.setattr(build, "_build", None)
    build._file().parent.chmod(0o555)
    assert prepared() == "code\n"
    assert sorted(path.suffix for path in build._file().parent.iterdir()) == [".sha256", ".so"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_text("co"),
        lambda file: file.write_text(""),
        lambda file: file.write_text("codf\n"),
        lambda file: file.unlink(),
        lambda file: file.with_suffix(".sha256").unlink(),
        lambda file: file.with_suffix(".sha256").write_text(""),
    ],
    ids=["cut", "empty", "changed", "gone", "no digest", "an empty digest"],
)
def test_a_damaged_one_is_built_anew(damage, folder, monkeypatch):
    prepared()
    damage(build._file())
    assert build.state() == "not built"
    with monkeypatch.context() as without:
        without.setenv("CXX", "/nowhere/c++")
        with pytest.warns(UserWarning, match="no C.. compiler"):
            assert prepared() is None
    assert prepared() == "code\n"


@pytest.mark.parametrize("part", ["folder", "file", "digest"])
@pytest.mark.parametrize("how", ["owner", "mode"])
def test_what_others_can_write_to_is_not_run(how, part, folder, monkeypatch):
    prepared()
    file = build._file()
    path = {"folder": file.parent, "file": file, "digest": file.with_suffix(".sha256")}[part]
    if how == "mode":
        path.chmod(path.stat().st_mode | 0o020)
    elif os.geteuid():
        pytest.skip("only root gives files away")
    else:
        os.chown(path, 12345, -1)
    assert build.state() == "not built"
    with pytest.warns(UserWarning, match=f"{path} belongs to another user, or others may write to it"):
        assert prepared() is None


def test_a_foreign_folder_is_not_built_in(folder):
    build._file().parent.mkdir(parents=True)
    build._file().parent.chmod(0o777)
    with pytest.warns(UserWarning, match="others may write to it"):
        assert prepared() is None
    assert not list(build._file().parent.iterdir())


@pytest.mark.parametrize("name, value", [("TORCH_EXTENSIONS_DIR", "built"), ("XDG_CACHE_HOME", "cache"), ("HOME", "~")])
def test_the_working_folder_keeps_no_kernel(name, value, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for one in ("TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv(name, value)
    before = sorted(tmp_path.iterdir())
    with pytest.warns(UserWarning, match="TORCH_EXTENSIONS_DIR"):
        assert prepared() is None
    assert build.state() == "not built" and sorted(tmp_path.iterdir()) == before


def test_no_home_is_told(folder, monkeypatch):
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(build.os.path, "expanduser", lambda path: path)  # as for a user without HOME and passwd entry
    with pytest.warns(UserWarning, match="no absolute path.*TORCH_EXTENSIONS_DIR"):
        assert prepared() is None


def test_no_compiler_is_told(folder, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++ -v")
    assert build.state() == "no compiler"
    with pytest.warns(UserWarning, match=r"are left out .*: no C\+\+ compiler builds them; install one"):
        assert prepared() is None


@pytest.mark.parametrize(
    "text, said",
    [
        ("exit 3", "exit code 3"),
        ("kill -9 $$", "exit code -9"),
        ("echo what; echo 'x.h: fatal error: no such file' >&2; echo more; exit 1", "no such file"),
    ],
    ids=["silent", "killed", "with words"],
)
def test_a_failed_build_is_told(text, said, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", _script(tmp_path, "bad", text))
    with pytest.warns(UserWarning, match=f"are left out .*bad fails: .*{said}"):
        assert prepared() is None
    assert [path.name for path in build._file().parent.iterdir()] == ["building.lock"]


def test_a_compiler_that_stalls_is_stopped_with_what_it_started(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", _script(tmp_path, "slow", f"sleep 60 & echo $! >{tmp_path}/child; wait"))
    monkeypatch.setattr(compiler, "SECONDS", 0.5)
    start = time.monotonic()
    with pytest.warns(UserWarning, match="slow did not end within 0.5 seconds"):
        assert prepared() is None
    assert time.monotonic() - start < 30
    assert _ended(int((tmp_path / "child").read_text()))


def _ended(process: int) -> bool:
    for _ in range(100):
        state = Path(f"/proc/{process}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_real_compiler_is_asked_for_this_module(tmp_path, monkeypatch):
    (tmp_path / "layer.cpp").write_text("""
#include <Python.h>
#define NAMED(name) PyInit_##name
#define INIT(name) NAMED(name)
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "probe", nullptr, 0, nullptr};
PyMODINIT_FUNC INIT(TORCH_EXTENSION_NAME)() {
  PyObject* made = PyModule_Create(&module);
  PyModule_AddIntConstant(made, "seven", 7);
  return made;
}
""")
    if compiler.compiler() is None:
        pytest.skip("no compiler is here")
    monkeypatch.setattr(compiler, "KERNEL", tmp_path)
    monkeypatch.setattr(compiler, "FLAGS", ("-O0",))
    file = compiler.compiled(compiler.compiler(), tmp_path / "hf_mpq_probe.so")
    seal(file)
    assert intact(file) and build._imported(file).seven == 7


def test_pythons_and_torches_do_not_build_over_each_other(monkeypatch):
    file = build._file()
    for place, other in (
        (build.sys, ("implementation", SimpleNamespace(cache_tag="cpython-399"))),
        (build.torch, ("__version__", "9.9")),
    ):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(place, *other)
            assert build._file() != file
    assert sys.implementation.cache_tag != "cpython-399" and build._file() == file
