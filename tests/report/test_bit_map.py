"""The picture of a model's bits."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import hf_mpq
from hf_mpq.nn.matrix import QuantizedMatrix
from hf_mpq.nn.packed import PackedMatrix
from hf_mpq.report import bit_map
from hf_mpq.report.figures.theme import DARK, FLOAT, LIGHT
from tests.processes import run_python
from tests.report.pictures import drawn, mixed, words
from tests.tiny import MOST, tiny_model


def cells(figure) -> Counter:
    """How many cells have each number of bits."""
    images = [image for axis in figure.axes for image in axis.images]
    return Counter(int(bits) for image in images for bits in image.get_array().compressed())


def lines_of(model) -> Counter:
    """How many output neurons, or cut columns, have each number of bits."""
    found = Counter()
    matrices = hf_mpq.assignment_of(model).matrices
    for name, module in model.named_modules():
        if isinstance(module, QuantizedMatrix | PackedMatrix):
            bits = matrices[name.removeprefix(f"{model.base_model_prefix}.")].bits
            for one, size in zip(bits, module.storage().layout.sizes):
                found[one] += size
    return found


@pytest.mark.parametrize("packed", [False, True], ids=["trainable", "packed"])
@pytest.mark.parametrize("family", MOST)
def test_every_sub_group_of_every_matrix_is_there(family, packed):
    model = mixed(family, packed=packed)
    figure = bit_map(model)
    assert cells(figure) == lines_of(model)
    for part in ("query", "key", "value", "output", "up", "down", "4 heads of 8", "pruned", "8 bits", "\nembeddings"):
        assert part in words(figure)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_pruned_heads_are_lines_of_their_own(family):
    rules = {"attention.self|Wqkv": {"groups": "head"}}
    model = mixed(family, rules=rules)
    name = {"bert": "encoder.layer.1.attention.self.query", "modernbert": "layers.1.attn.Wqkv"}[family]
    bits = hf_mpq.assignment_of(model).matrices[name].bits[:4]
    image = next(axis for axis in bit_map(model).axes if axis.get_title() == "query").images[0].get_array()
    assert image.shape == (4 + 1 + 4, 8) and image.mask[4].all()
    assert [int(line[0]) for line in image[5:]] == list(bits)
    assert all((line == line[0]).all() for line in image[5:])


def test_columns_and_uneven_blocks_are_drawn():
    model = mixed("bert", groups="columns:8")
    figure = bit_map(model)
    assert cells(figure) == lines_of(model) and "columns" in words(figure)


def test_what_stays_float_is_grey_and_open_gates_show_their_likeliest_bits():
    model = hf_mpq.quantize(
        tiny_model("bert"),
        hf_mpq.MPQConfig(bits=(2, 4), groups=8, embedding_bits=None, rules={"layer.0": {"bits": None}}),
    )
    figure = bit_map(model)
    in_float = 4 * 32 + 56 + 32 + sum(m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding))
    assert cells(figure)[FLOAT] == in_float and "float" in words(figure)
    assert cells(figure) - Counter({FLOAT: in_float}) == lines_of(model)


def test_unknown_families_are_drawn_layer_by_layer():
    from transformers import AutoModel, ConvBertConfig

    config = ConvBertConfig(
        hidden_size=32,
        embedding_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=56,
        vocab_size=97,
        max_position_embeddings=40,
    )
    model = hf_mpq.quantize(AutoModel.from_config(config), hf_mpq.MPQConfig(bits=4, groups=8))
    figure = bit_map(model)
    assert cells(figure) == lines_of(model) and "intermediate.dense" in words(figure)


def test_prepared_models_and_folders_are_drawn_like_the_packed_model(tmp_path):
    model = mixed("bert", packed=True)
    before = cells(bit_map(model))
    model.save_pretrained(tmp_path)
    assert cells(bit_map(tmp_path)) == before
    assert cells(bit_map(hf_mpq.prepare(model, "cpu-float"))) == before


def test_words_are_no_formulas():
    drawn(bit_map(mixed("bert"), title="$x^$ of $y"))


def test_models_that_are_not_quantized_are_refused():
    with pytest.raises(ValueError, match="nothing in this model is quantized"):
        bit_map(tiny_model("bert"))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_of_the_page(theme):
    from matplotlib.colors import to_rgb

    pixels = drawn(bit_map(mixed("bert"), dark=theme is DARK))[..., :3]
    seen = {tuple(np.round(255 * one).astype(int)) for one in pixels.reshape(-1, 3)[::7]}
    for colour in [theme.page, *theme.bit_colours((0, 2, 3, 4, 8))]:
        assert tuple(np.round(255 * np.array(to_rgb(colour))).astype(int)) in seen


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_tell_precisions_apart_without_hue(theme):
    from matplotlib.colors import to_rgb

    levels = torch.tensor([to_rgb(colour) for colour in theme.bit_colours(range(1, 9))]) @ torch.tensor([0.2, 0.7, 0.1])
    steps = levels.diff()
    assert (steps < 0).all() if theme is LIGHT else (steps > 0).all()


def test_importing_hf_mpq_does_not_import_matplotlib():
    code = "import sys, hf_mpq, hf_mpq.report; raise SystemExit('matplotlib' in sys.modules)"
    assert run_python(["-c", code]).returncode == 0
