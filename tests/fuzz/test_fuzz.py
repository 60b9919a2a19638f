"""A short run of the fuzzer, the same every time."""

import pytest
from transformers.quantizers import HfQuantizer
from transformers.utils import logging

from tests.fuzz.bases import names
from tests.fuzz.run import OUTCOMES, fuzz


@pytest.fixture(autouse=True)
def _quiet():
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    yield
    logging.set_verbosity(before)


@pytest.mark.skipif(
    "update_attn_implementation" not in vars(HfQuantizer),
    reason="this transformers builds a model before a quantizer may look at its config",
)
@pytest.mark.parametrize("folders", [150, pytest.param(700, marks=pytest.mark.full)])
def test_damaged_folders(folders):
    """Each is refused with one error, or gives the outputs that it gave."""
    counts, faults = fuzz(0, names(few=True), lambda done: done < folders)
    assert not faults, "\n".join(faults)
    assert counts["refused"] > folders // 2 and counts["same outputs"] > folders // 140
    assert set(counts) <= set(OUTCOMES)
