"""What is built from the sources and installed elsewhere is whole."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

import hf_mpq
from hf_mpq.cli.recipes import shipped

ROOT = Path(__file__).parents[2]
SOURCES = ("hf_mpq", "recipes", "benchmarks", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
KERNEL = "hf_mpq/runtime/native/_kernel.so"
DATA = ("py.typed", "hub/templates", "report/page/templates", "runtime/int8/kernel")
JOURNEY = ROOT / "tests" / "wheel_journey.py"
WITHOUT_COMPILER = {"PATH": "/nowhere", "CXX": "/nowhere/c++", "HF_HUB_OFFLINE": "1"}


def data_files() -> set[str]:
    """Names within the wheel of all files that are no modules."""
    folders = [ROOT / "hf_mpq" / name for name in DATA]
    files = [path for folder in folders for path in ([folder] if folder.is_file() else folder.iterdir())]
    names = {str(path.relative_to(ROOT)) for path in files if path.suffix not in (".py", "") and path.is_file()}
    rows = [path.relative_to(ROOT / "benchmarks") for path in ROOT.glob("benchmarks/rows/*/results.jsonl")]
    names |= {f"hf_mpq/report/board/{path}" for path in rows}
    return names | {f"hf_mpq/recipes/{path}" for path in shipped()}


def sources(folder: Path) -> Path:
    """A copy of what is in the repository, without what was built."""
    folder.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            built = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=built)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def wheel_of(source: Path, folder: Path, **environment: str) -> Path:
    """Built with the setuptools that are installed here."""
    options = ("--no-deps", "--no-build-isolation", "--no-cache-dir", "-q", "-w", folder)
    call(sys.executable, "-m", "pip", "wheel", source, *options, **environment)
    return next(folder.glob("*.whl"))


@pytest.mark.full
def test_without_a_compiler_a_wheel_has_all_but_the_kernel(tmp_path):
    source = sources(tmp_path / "source")
    wheel = wheel_of(source, tmp_path / "built", CC="false", CXX="false")
    assert data_files() - set(ZipFile(wheel).namelist()) == set()
    assert KERNEL not in ZipFile(wheel).namelist()
    with pytest.raises(AssertionError, match="_kernel"):
        wheel_of(source, tmp_path / "again", CC="false", CXX="false", HF_MPQ_KERNEL="required")


@pytest.fixture(scope="module")
def wheel(made_once) -> Path:
    """Built from an archive of the sources, as an index would have it."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no compiler is here: apt install g++")

    def make(folder: Path) -> None:
        folder.mkdir()
        source = sources(folder / "source")
        make = f"import os; os.chdir({str(source)!r}); from setuptools import build_meta as made; made.build_sdist('.')"
        call(sys.executable, "-c", make)
        wheel_of(next(source.glob("*.tar.gz")), folder / "built", HF_MPQ_KERNEL="required")

    return next((made_once("wheel", make) / "built").glob("*.whl"))


@pytest.fixture
def installed(wheel, tmp_path) -> Path:
    """Python of a new environment that has the wheel, and sees what else is installed here."""
    venv.create(tmp_path / "venv", with_pip=True)
    there = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    (there / "others.pth").write_text(sysconfig.get_path("purelib"))
    python = tmp_path / "venv" / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--force-reinstall", wheel)
    return python


@pytest.mark.full
def test_a_wheel_is_for_every_python_and_has_everything(wheel):
    assert re.search(r"-py3-none-(?!any)\w+$", wheel.stem)
    assert ({KERNEL} | data_files()) - set(ZipFile(wheel).namelist()) == set()


@pytest.mark.full
def test_a_wheel_runs_where_neither_sources_nor_a_compiler_are(installed, tmp_path):
    script = shutil.copy(JOURNEY, tmp_path)
    found = json.loads(call(installed, script, **WITHOUT_COMPILER).splitlines()[-1])
    assert Path(found["package"]).is_relative_to(tmp_path) and found["instructions"] and found["distance"] < 0.02
    command = installed.with_name("hf-mpq")
    assert call(command, "--version").strip() == hf_mpq.__version__
    assert {line.partition("\t")[0] for line in call(command, "recipes", "ls").splitlines()} == set(map(str, shipped()))
    call(command, "recipes", "cp", "run_glue.py", "--to", tmp_path / "mine")
    assert (tmp_path / "mine" / "recipe.py").exists()


def call(*words, **environment: str) -> str:
    """What a command prints; it must end well, and sees no PYTHONPATH."""
    environment |= {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", *environment)}
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, env=environment, cwd=Path(sys.prefix).anchor
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
