"""What all tests share: tiny encoders, a tokenizer, the same numbers for each test."""

import gc
import os
import sys
from collections import Counter
from pathlib import Path
from re import compile as pattern
from re import findall
from shutil import rmtree

import pytest
import torch
from filelock import FileLock
from transformers import BertTokenizerFast
from transformers.utils import logging

import hf_mpq  # noqa: F401
from hf_mpq.rounding import ROUNDERS
from hf_mpq.tasks import get_task
from hf_mpq.weights.quantizers import scan
from tests.remembered import scanned
from tests.slower import SLOWER
from tests.tiny import SHARED

torch.set_num_threads(1)
seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
"""Without a look at each kind of device, which takes a millisecond: there are thousands of tests."""
logging.disable_progress_bar()
sys.modules["openvino_telemetry"] = None  # otherwise each conversion tells its maker, or tries to


@pytest.fixture(autouse=True, scope="module")
def _settled():
    """Trainers collect garbage after each stage: what stays anyway, modules above all, is not looked through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _scanned_once():
    """The tiny models have the same weights in most tests: half of what quantizing them takes is to scan for scales."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(scan, "_scanned", scanned)
        yield


@pytest.fixture(autouse=True)
def _afresh():
    """Every test draws the same numbers, and hears what is said once."""
    seed(0)
    logging.warning_once.cache_clear()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks what `SLOWER` lists, before it is chosen by marks."""
    slower = pattern("|".join(SLOWER))
    for item in items:
        if slower.search(item.nodeid):
            item.add_marker(pytest.mark.full)


def pytest_fixture_setup(fixturedef):
    """What tests share draws the same numbers, whichever test comes first."""
    if fixturedef.scope != "function":
        seed(0)


@pytest.fixture(params=["cpu", "cuda"][: 1 + torch.cuda.is_available()])
def device(request) -> torch.device:
    """Every device that is there."""
    return torch.device(request.param)


@pytest.fixture
def few_iterations(monkeypatch):
    """Where rounding is not what a test is about: AutoRound takes 8 steps for a block, unless it is told how many."""
    made = ROUNDERS["autoround"].__init__
    monkeypatch.setattr(made, "__defaults__", (8, *made.__defaults__[1:]))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Makes a folder by its name, once for all processes that test: `made_once("name", make)` calls `make(folder)`.

    What is in it is for all tests to read, and for none to change.
    """
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make) -> Path:
        folder = root / "made" / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not Path(f"{folder}.whole").exists():
                rmtree(folder, ignore_errors=True)
                torch.manual_seed(0)
                make(folder)
                Path(f"{folder}.whole").touch()
        return folder

    return get


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real evaluation data beside the repository; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no evaluation data in {SHARED.parent.name}/{SHARED.name} beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def docstrings():
    """The splits of the docstring task."""
    return get_task("docstrings").load()


@pytest.fixture(scope="session")
def tokenizer(docstrings):
    """A small word piece tokenizer that knows every letter, and whole words that are frequent.

    Not a trained one: training breaks ties in another way in every process.
    """
    counts = Counter(word for text in docstrings["train"]["text"] for word in findall(r"\w+|[^\w\s]", text.lower()))
    letters = sorted(set("".join(counts)))
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = list(dict.fromkeys(pieces))[:2000]
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(vocabulary)}, do_lower_case=True)
