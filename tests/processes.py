"""Processes of their own without the seconds that imports take: forked from one that did nothing but import.

`hf_mpq` is not among what it imported, so a forked process is like one that was started, for all that tests look at.
"""

import importlib
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
_PATHS = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(_PATHS))  # the server has no other way to know
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.preloaded"])
FORKED = "forkserver"
"""As `start_method` of `torch.multiprocessing.start_processes`."""


def start_python(
    words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> multiprocessing.Process:
    """Start `python words`: `-c code`, `-m module` or a file, each with its arguments.

    Args:
        folder: gets what is printed, as `stdout` and `stderr`.
        environment: all variables; default: those of this process.
    """
    given = dict(os.environ if environment is None else environment)
    process = _FORKS.Process(target=_run, args=([str(word) for word in words], str(folder), given, str(cwd)))
    process.start()
    return process


def run_python(
    words: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> CompletedProcess:
    """As `subprocess.run([sys.executable, *words], capture_output=True, text=True)`."""
    with TemporaryDirectory() as folder:
        process = start_python(words, Path(folder), environment, cwd)
        process.join()
        said = [Path(folder, name).read_text() for name in ("stdout", "stderr")]
    return CompletedProcess(list(words), process.exitcode, *said)


def _run(words: list[str], folder: str, environment: dict[str, str], cwd: str) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT, 0o600), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background has it ignored
    os.chdir(cwd)
    _adopt(environment)
    if words[0] == "-c":
        sys.argv, main = ["-c", *words[2:]], ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(words[1], "<string>", "exec"), vars(main))
    elif words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = list(words), str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


def _adopt(environment: dict[str, str]) -> None:
    """Variables that the Hub's client reads when it is imported are read again."""
    os.environ.clear()
    os.environ.update(environment)
    import huggingface_hub

    importlib.reload(huggingface_hub.constants)
    huggingface_hub.hf_api.api.endpoint = huggingface_hub.constants.ENDPOINT
