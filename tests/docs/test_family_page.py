"""The table of families says what is so."""

import pytest

from docs import family_table
from hf_mpq.nn.families import FAMILIES


def test_every_family_has_its_row():
    assert list(family_table.rows()) == list(FAMILIES), "run `python -m docs.family_table`"


@pytest.mark.full
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_what_a_tiny_model_shows(family):
    pytest.importorskip("compressed_tensors", reason="pip install 'hf_mpq[interop]'")
    pytest.importorskip("openvino", reason="pip install 'hf_mpq[openvino]'")
    pytest.importorskip("onnxruntime")
    if family not in family_table.CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {family}")
    assert family_table.row(family) == family_table.rows()[family], f"run `python -m docs.family_table {family}`"
