"""Encoders that are not BERT's, in one call: their settings, against the packed model in double precision."""

import copy
import warnings

import pytest
import torch

import hf_mpq
from hf_mpq.nn import MPQLinear, body_of, calibrate_activations, correct_low_rank
from hf_mpq.runtime import CompactLinear
from hf_mpq.runtime.native import NAME, NativeEncoder, make_native, paths
from hf_mpq.runtime.native.encoder import INSTRUCTIONS
from tests.contracts.test_folding import pruned_model
from tests.runtime.test_int8 import packed_model
from tests.runtime.test_native import hidden, native, ragged
from tests.runtime.test_native import path as path  # a fixture
from tests.tiny import outputs, tiny_batch, tiny_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    PATHS = paths()
pytestmark = pytest.mark.skipif(not PATHS, reason="the kernel is not built: python setup.py build_ext --inplace")
LENGTHS = (130, 3, 71, 1, 64)
LONG = {"max_position_embeddings": 160}
SLOWER = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
FAST = {"rope_type": "default", "rope_theta": 1e3}
CASES = {
    "modernbert": [
        {},
        {"local_attention": 40, "num_hidden_layers": 3, "global_attn_every_n_layers": 3},
        {"local_attention": 3, "attention_bias": True, "mlp_bias": True, "norm_bias": True},
        {"num_attention_heads": 2, "hidden_size": 44, "intermediate_size": 51, "hidden_activation": "gelu_new"},
        {"intermediate_size": 9, "hidden_activation": "relu"},
        {
            "rope_parameters": {
                "full_attention": SLOWER,
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
            }
        },
    ],
    "deberta-v2": [
        {},
        {"share_att_key": False},
        {"share_att_key": False, "pos_att_type": ["c2p"], "norm_rel_ebd": "none"},
        {"pos_att_type": ["p2c"], "position_buckets": -1},
        {"embedding_size": 24, "type_vocab_size": 0, "position_biased_input": False, "position_buckets": 32},
        {"relative_attention": False},
        {"num_attention_heads": 3, "hidden_size": 51, "max_relative_positions": 64},
    ],
}
EACH = [(family, changes) for family, cases in CASES.items() for changes in cases]


def long_batch() -> dict[str, torch.Tensor]:
    return ragged(LENGTHS, max(LENGTHS) + 1)


def assert_alike(got, want):
    """A level that is the next one in one token moves all those that read it a little; in long texts, there is one."""
    difference, largest = (got.double() - want).abs(), want.abs().max()
    assert difference.median() < 2e-3 * largest
    assert difference.max() < 0.02 * largest


@pytest.mark.parametrize("activation", ["dynamic-token", "static"])
@pytest.mark.parametrize(("family", "changes"), EACH, ids=str)
def test_hidden_states_are_those_of_double_precision(family, changes, activation, monkeypatch):
    model, batch = packed_model(family, activation=activation, changes={**LONG, **changes}), long_batch()
    with torch.no_grad():
        want = body_of(copy.deepcopy(model).double())(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    for instructions in PATHS:
        monkeypatch.setenv(INSTRUCTIONS, instructions)
        got = hidden(native(model), batch)
        assert_alike(got[real], want[real])
        assert not got[~real].any()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("family", CASES)
def test_a_token_is_the_same_in_every_batch_padding_and_number_of_threads(family):
    model = native(packed_model(family, activation="static", changes={**LONG, "head": "token"}))
    batch = long_batch()
    together = hidden(model, batch)
    before = torch.get_num_threads()
    try:
        for row, length in enumerate(LENGTHS):
            one = batch["input_ids"][row : row + 1, :length]
            left = torch.nn.functional.pad(one, (9, 0), value=1)
            torch.set_num_threads(1 + row % 3)
            assert torch.equal(hidden(model, {"input_ids": one})[0], together[row, :length])
            if family == "modernbert":  # tables of positions count columns
                padded = {"input_ids": left, "attention_mask": torch.arange(length + 9).ge(9).long().unsqueeze(0)}
                assert torch.equal(hidden(model, padded)[0, 9:], together[row, :length])
            assert torch.equal(hidden(model, batch), together)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("family", CASES)
def test_positions_and_types_that_are_given_count(family):
    model, batch = packed_model(family, changes=LONG), ragged()
    batch["position_ids"] = (torch.arange(38) * 3 + 5).flip(0).unsqueeze(0)
    if family == "deberta-v2":
        batch["token_type_ids"] = torch.arange(38).remainder(2).expand(len(batch["input_ids"]), -1)
    with torch.no_grad():
        want = body_of(copy.deepcopy(model).double())(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    assert_alike(hidden(native(model), batch)[real], want[real])


@pytest.mark.parametrize("family", CASES)
@torch.no_grad()
def test_what_the_call_cannot_give_comes_from_the_layers(family):
    """Masks with holes, more tokens than distances or turns."""
    model = packed_model(family)
    exact = body_of(copy.deepcopy(model).double())
    body = body_of(native(model))
    holes = (torch.arange(11) % 4 > 0).long().expand(3, -1)
    few = {"input_ids": torch.full((1, 41), 5)}
    if family == "deberta-v2":
        few["position_ids"] = torch.arange(41).clamp(max=39).unsqueeze(0)
    for batch in ({**tiny_batch(), "attention_mask": holes}, few):
        assert body.native.answer(batch) is None
        real = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        assert_alike(body(**batch).last_hidden_state[real], exact(**batch).last_hidden_state[real])


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("deberta-v2", {"conv_kernel_size": 3}, "convolution"),
        ("modernbert", {"local_attention": 1}, "read no others"),
        ("modernbert", {"hidden_activation": "silu"}, "silu"),
    ],
    ids=str,
)
def test_odd_settings_run_by_layers(family, changes, said):
    model = packed_model(family, changes=changes)
    before = outputs(model)
    hf_mpq.prepare(model, NAME)
    assert not isinstance(body_of(model), NativeEncoder) and said in make_native(model)
    for one, other in zip(outputs(model), before):
        assert (one - other).abs().max() < 0.1 * other.abs().max()


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("head", ["bare", "token", "question", "masked"])
@torch.no_grad()
def test_every_head_reads_it(family, head):
    model = packed_model(family, changes={"head": head})
    before = outputs(model)
    native(model)
    assert body_of(model).native.answer(tiny_batch()) is not None
    real = tiny_batch()["attention_mask"].bool()
    for one, other in zip(outputs(model), before):
        assert (one - other)[real].abs().max() < 0.1 * other.abs().max()


def shifted_model(family: str, activation: str):
    """Packed, with layers that shift and scale their inputs."""
    model = hf_mpq.quantize(tiny_model(family), hf_mpq.MPQConfig(bits=4, activation_bits=8, activation=activation))
    for layer in (one for name, one in model.named_modules() if isinstance(one, MPQLinear) and "layer" in name):
        width = layer.in_features
        shift = None if layer.bias is None else torch.linspace(-0.4, 0.3, width)
        layer.set_input_affine(torch.linspace(0.4, 2.5, width), shift)
    if activation == "static":
        calibrate_activations(model, [tiny_batch()])
    return hf_mpq.pack(model).eval()


@pytest.mark.parametrize("activation", ["dynamic-token", "static"])
@pytest.mark.parametrize("family", ["bert", *CASES])
@torch.no_grad()
def test_inputs_are_shifted_and_scaled(family, activation, monkeypatch):
    model, batch = shifted_model(family, activation), ragged()
    want = body_of(copy.deepcopy(model).double())(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    for instructions in PATHS:
        monkeypatch.setenv(INSTRUCTIONS, instructions)
        assert_alike(hidden(native(model), batch)[real], want[real])


@pytest.mark.parametrize("family", ["bert", *CASES])
@torch.no_grad()
def test_low_rank_corrections_are_rounded_into_the_matrix(family):
    model = hf_mpq.quantize(tiny_model(family), hf_mpq.MPQConfig(bits=2, activation_bits=8, low_rank=4))
    correct_low_rank(model, tiny_model(family), [tiny_batch()])
    model, batch = hf_mpq.pack(model).eval(), ragged()
    want = body_of(copy.deepcopy(model).double())(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    difference = (hidden(native(model), batch)[real] - want[real]).abs() / want[real].abs().max()
    assert difference.median() < 0.01 and difference.max() < 0.1


@pytest.mark.parametrize("kinds", [{"pointwise", "heads"}, {"value", "scores"}], ids=["removed", "empty"])
@pytest.mark.parametrize("family", ["bert", *CASES])
@torch.no_grad()
def test_pruned_rows_and_heads(family, kinds):
    """The second head and a quarter of the feed-forward rows, which are not computed; or rows that stay, as zeros."""
    model, batch = hf_mpq.pack(pruned_model(family, kinds, activation_bits=8)).eval(), ragged()
    want = body_of(copy.deepcopy(model).double())(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    assert_alike(hidden(native(model), batch)[real], want[real])
    assert any(isinstance(layer, CompactLinear) for layer in model.modules()) == ("heads" in kinds)
