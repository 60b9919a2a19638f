"""`docs/format.md` is enough: what its reader decodes is what hf_mpq does."""

import json
import random
import re

import numpy as np
import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import calibrate_activations, relative_name, relative_names
from hf_mpq.nn.attention import AttentionQuantizers
from hf_mpq.nn.linear import MPQLinear
from hf_mpq.nn.packed import PackedLayerNorm, PackedLinear, PackedMatrix
from hf_mpq.weights.activations import ActivationQuantizer
from tests.format.reader import on_levels, read
from tests.plugin.models import as_version_1
from tests.tiny import HEADS, tiny_batch, tiny_model

MIXED = (0, 1, 2, 3, 5, 8)
NESTED = {"method": "vertical", "bits": (2, 3, 8)}
FIXED = {"activation": "static", "activation_bits": 6, "attention_bits": 8}
KINDS = {
    "mixed": ("bert", {"rules": {"query|output": {"bits": 2}, "key": {"bits": 8}}}),
    "every precision": ("bert", {"bits": MIXED}),
    "half-step": ("bert", {"bits": 2, "quantizer": "symmetric", "quantizer_options": {"two_bits": "half-step"}}),
    "ternary": ("bert", {"bits": MIXED, "quantizer": "symmetric", "quantizer_options": {"two_bits": "ternary"}}),
    "affine": ("bert", {"bits": MIXED, "quantizer": "minmax", "scale_dtype": "float32", "float_dtype": "float32"}),
    "columns": (
        "bert",
        {"bits": MIXED, "groups": "columns:5", "mask": "n:m", "low_rank": 2, "input_affine": {".*key": ["scale"]}},
    ),
    "n:m": ("bert", {"mask": "n:m"}),
    "1:4": ("bert", {"bits": (2, 8), "mask": "n:m", "mask_options": {"kept": 1, "block": 4}}),
    "8:16": ("bert", {"mask": "n:m", "mask_options": {"kept": 8, "block": 16}, "modules_to_not_convert": ["output"]}),
    "runs": ("bert", {"bits": MIXED, "mask": "element", "mask_options": {"density": 0.1}}),
    "flags": ("bert", {"bits": MIXED, "mask": "element", "mask_options": {"density": 0.5}}),
    "nested": ("bert", NESTED),
    "nested with a mask": ("albert", {**NESTED, "mask": "element", "float_dtype": "float32"}),
    "basis": ("albert", {"method": "lq-nets", "bits": (1, 2, 3, 4), "groups": 4}),
    "even basis": ("bert", {"method": "lq-nets", "activation_bits": 6}),
    "fused": ("modernbert", {"bits": MIXED}),
    "fused columns": ("modernbert", {"bits": MIXED, "rules": {"Wqkv": {"groups": "columns:3"}}, **FIXED}),
    "shared": ("albert", {"bits": MIXED}),
    "disentangled": ("deberta-v2", {"bits": (1, 2, 4), **FIXED}),
    "corrected": ("bert", {"bits": MIXED, "low_rank": 3, "input_affine": {".*dense": ["scale", "shift"]}}),
    "corrected, fused": ("modernbert", {"bits": MIXED, "low_rank": 2, "float_dtype": "float32"}),
    "inputs of a tensor": ("bert", {"activation": "dynamic-tensor", "activation_options": {"symmetric": True}}),
    "symmetric fixed inputs": ("bert", {**FIXED, "activation_options": {"symmetric": True}}),
    "float inputs": ("bert", {"activation_bits": None, "embedding_bits": 3, "projection_bits": 2}),
}


def packed(kind: str, head: str = "masked"):
    """A packed model with random bits of sub-groups, corrections and norms; whole matrices are pruned."""
    family, options = KINDS[kind]
    config, generator = {"groups": 6, **options}, random.Random(0)
    model = tiny_model(family, head, num_hidden_layers=2)
    if isinstance(config.get("bits"), tuple) and "nested" not in kind:
        fixed = hf_mpq.assignment_of(hf_mpq.quantize(tiny_model(family, head, num_hidden_layers=2), _of(config, 2)))
        content = fixed.to_dict()
        for name, matrix in content["matrices"].items():
            if not re.search("embedding|cls|head|pooler|mapping", name):
                matrix["bits"] = generator.choices(config["bits"], k=len(matrix["bits"]))
        if 0 in config["bits"]:
            first = next(name for name in content["matrices"] if re.search(r"query|Wqkv|attn", name))
            content["matrices"][first]["bits"] = [0] * len(content["matrices"][first]["bits"])
        model = hf_mpq.quantize(model, MPQConfig(**{**config, "assignment": content}))
    else:
        model = hf_mpq.quantize(model, MPQConfig(**config))
    _fill(model)
    calibrate_activations(model, [tiny_batch()])
    return hf_mpq.pack(model)


def _of(config: dict, bits: int) -> MPQConfig:
    return MPQConfig(**{**config, "bits": bits})


@torch.no_grad()
def _fill(model) -> None:
    """Give what is trained, or fitted, other values than it starts with."""
    torch.manual_seed(1)
    for name, layer in model.named_modules():
        if isinstance(layer, MPQLinear) and layer.spec.rank:
            layer.set_low_rank(
                torch.randn(layer.out_features, layer.spec.rank), torch.randn(layer.spec.rank, layer.in_features)
            )
        if isinstance(layer, MPQLinear) and layer.spec.affine:
            shift = torch.randn(layer.in_features) if "shift" in layer.spec.affine else None
            layer.set_input_affine(torch.rand(layer.in_features) + 0.5, shift)
        if "orm" in name.rpartition(".")[2]:
            for parameter in layer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))


def numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def same(found: np.ndarray | None, expected: torch.Tensor | None, what: str) -> None:
    assert (found is None) == (expected is None), what
    if expected is not None:
        assert found.shape == expected.shape and np.array_equal(found, numpy(expected)), what


def agree(model, folder) -> dict:
    """Compare what the reader finds in a folder with what a packed model decodes, which is returned."""
    found, about = read(folder), json.loads((folder / "config.json").read_text())["quantization_config"]["packed"]
    relative, state = relative_names(model), model.state_dict()
    layers = {relative(name): one for name, one in model.named_modules() if isinstance(one, PackedMatrix)}
    norms = {relative(name): one for name, one in model.named_modules() if isinstance(one, PackedLayerNorm)}
    assert layers.keys() == found["matrices"].keys() and norms.keys() == found["norms"].keys()
    for name, layer in layers.items():
        one, entry = found["matrices"][name], about["matrices"][name]
        same(one["coded"], layer.decode(), name)
        same(one.get("bias"), layer.bias, name)
        if isinstance(layer, PackedLinear):
            _same_linear(layer, one, entry, name)
    for name, layer in norms.items():
        same(found["norms"][name]["weight"], layer.weight, name)
        same(found["norms"][name].get("bias"), layer.bias, name)
    for name, octets in found["others"].items():
        assert octets.tobytes() == numpy(state[name]).tobytes(), name
    _same_attention(model, found, about["attention"])
    return found


def _same_linear(layer: PackedLinear, one: dict, entry: dict, name: str) -> None:
    same(one.get("scale"), layer.input_scale, name)
    same(one.get("shift"), layer.input_shift, name)
    rows, columns = layer.factors() or (None, None)
    same(one.get("rows"), rows, name)
    same(one.get("columns"), columns, name)
    np.testing.assert_allclose(one["weight"], numpy(layer.full_weight()), rtol=1e-5, atol=1e-5)
    assert ("activation" in entry) == (layer.input_quantizer is not None)
    if layer.input_quantizer is not None:
        _same_levels(layer.input_quantizer, entry["activation"], one.get("input_grid"))


def _same_levels(quantizer: ActivationQuantizer, activation: list, grid: np.ndarray | None) -> None:
    x = 3 * torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 0
    x = x.softmax(-1) if activation[0] == "probabilities" else x
    same(on_levels(numpy(x), activation, grid), quantizer.rounded(x), str(activation))


def _same_attention(model, found: dict, attention: list | None) -> None:
    grids = {name: octets.view("<f4") for name, octets in found["others"].items() if name.endswith("grid_bytes")}
    for full, module in model.named_modules():
        if isinstance(module, AttentionQuantizers):
            for role, quantizer in module.named_children():
                activation = attention[role == "probabilities"]
                _same_levels(quantizer, activation, grids.pop(f"{full}.{role}.grid_bytes", None))
        elif getattr(module, "output_quantizer", None) is not None:
            grid = found["matrices"][relative_name(model, full)]["output_grid"]
            _same_levels(module.output_quantizer, attention[0], grid)
    assert not grids


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_in_another_language(kind, tmp_path):
    model = packed(kind)
    model.save_pretrained(tmp_path)
    found = agree(model, tmp_path)
    table = found["matrices"][next(name for name in found["matrices"] if re.search("word_emb|tok_emb", name))]
    decoder = model.get_output_embeddings()
    same(table["weight"], decoder.weight, "the decoder that is tied to the table")
    assert not any(re.search(r"decoder\.weight", name) for name in found["others"])


@pytest.mark.parametrize("head", HEADS)
def test_names_of_every_head_lead_to_the_table(head, tmp_path):
    model = packed("mixed", head)
    model.save_pretrained(tmp_path)
    agree(model, tmp_path)


@pytest.mark.parametrize("bits", [3, {"layer.0": 2, "query": 8}, {"layer": 2, "layer.1.output": 3}])
def test_nested_codes_at_the_precision_that_is_used(bits, tmp_path):
    model = hf_mpq.set_precision(packed("nested"), bits)
    model.save_pretrained(tmp_path / "whole")
    whole = agree(model, tmp_path / "whole")
    hf_mpq.extract(tmp_path / "whole", bits, tmp_path / "part")
    part = agree(HEADS["masked"].from_pretrained(tmp_path / "part"), tmp_path / "part")
    for name, one in whole["matrices"].items():
        assert np.array_equal(one["weight"], part["matrices"][name]["weight"])


def test_several_files(tmp_path):
    model = packed("nested")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    agree(model, tmp_path)


def test_the_first_version(tmp_path):
    model = packed("flags")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for entry in config["quantization_config"]["packed"]["matrices"].values():
        entry.pop("mask_encoding", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    as_version_1(tmp_path)
    agree(model, tmp_path)
    damage(tmp_path / "model.safetensors", -1)
    with pytest.raises(ValueError, match="was changed"):
        read(tmp_path)


def damage(file, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_what_was_changed_is_refused(tmp_path):
    hf_mpq.set_precision(packed("nested"), {"query": 2}).save_pretrained(tmp_path)
    file, text = tmp_path / "model.safetensors", (tmp_path / "config.json").read_text()
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    planes = next(name for name in header if name.endswith("query.codes"))
    for place in (-1, int.from_bytes(content[:8], "little") + 8 + header[planes]["data_offsets"][0]):
        damage(file, place)
        with pytest.raises(ValueError, match="was changed"):
            read(tmp_path)
        file.write_bytes(content)
    for old, new in (
        ('"hidden_size": 32', '"hidden_size": 64'),
        ('"format_version": 2', '"format_version": 3'),
        ('"storage": "packed"', '"storage": "unfinished"'),
        ('self.query": 2', 'self.query": 3'),
        ('"encoding": "nested"', '"encoding": "scaled"'),
    ):
        assert old in text
        (tmp_path / "config.json").write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=r"was changed|not known"):
            read(tmp_path)
    (tmp_path / "config.json").write_text(text)
    read(tmp_path)
