"""Quantized models can be printed, and say what they are."""

import pytest

from hf_mpq import MPQConfig, pack, quantize
from tests.tiny import tiny_model


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ({"bits": 3, "groups": 8}, "shape=(56, 32), groups=8, bits={3: 8}"),
        ({"bits": (0, 2, 4), "groups": 8}, "shape=(56, 32), groups=8, bits=(0, 2, 4)"),
        ({"bits": (2, 4), "nested": True, "groups": 8}, "shape=(56, 32), groups=8, bits="),
    ],
)
def test_layers_show_shape_groups_and_bits(config, shown):
    model = quantize(tiny_model("bert"), MPQConfig(**config))
    assert shown in str(model)
    assert str(pack(model))
    assert "bits=" in str(quantize(tiny_model("bert"), MPQConfig(**config)).to("meta"))
