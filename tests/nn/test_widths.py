"""Wider models of the same function, and gates over rows that reach the columns which read them."""

import copy

import pytest
import torch
from torch import nn

import hf_mpq
from hf_mpq import MPQConfig, assignment_of
from hf_mpq.cost import COSTS
from hf_mpq.exporters.base import EXPORTERS
from hf_mpq.nn import usages
from hf_mpq.nn.families import FAMILIES as TABLE
from hf_mpq.nn.importance import put_in_order
from hf_mpq.nn.reshape import sizes_of
from hf_mpq.nn.walk import gates, matrices, take_path
from hf_mpq.nn.widening import RESHAPES, close_new_rows, widened
from hf_mpq.plugin.space import space_of
from hf_mpq.search import Judge
from tests.contracts.test_quantizers_in_backends import check_backends, check_exports
from tests.tiny import MORE, outputs, tiny_model

DISTINCT = ("bert", "albert", "deberta-v2", "modernbert")
UP = {r"intermediate\.dense$|lin1$|ffn$|Wi$": {"groups": 6}}
"""Sub-groups of 14 of the 84 rows that 56 become."""


def wide_gates(model):
    return {name: gate for name, gate in gates(model).items() if gate.sets_width}


def open_model(family="bert", wide=True, **config):
    """A tiny model half as wide again, whose original rows are open to begin with."""
    model = tiny_model(family)
    model = widened(model) if wide else model
    fields = {"bits": (0, 2), "gate": "width", "groups": 8, "rules": UP, "activation_bits": None, **config}
    return close_new_rows(hf_mpq.quantize(model, MPQConfig(**fields)), 56)


@torch.no_grad()
def move(model, seed=0):
    """Preferences that are not even."""
    generator = torch.Generator().manual_seed(seed)
    for gate in wide_gates(model).values():
        gate.logits.copy_(torch.randn(gate.logits.shape, generator=generator))


@torch.no_grad()
def surely(model, places):
    """One width of each gate as good as alone."""
    for gate, place in zip(wide_gates(model).values(), places):
        gate.open.fill_(True)
        gate.logits.zero_()
        gate.logits[0, place] = 1e3


@pytest.mark.parametrize("family, rows", [*((family, 1.5) for family in DISTINCT), ("bert", 1.0), ("bert", 2.37)])
def test_widening_changes_no_output(family, rows):
    model = tiny_model(family)
    expected, before = outputs(model)[0], copy.deepcopy(model.state_dict())
    wide = widened(model, rows)
    torch.testing.assert_close(outputs(wide)[0], expected, atol=2e-6, rtol=0)
    assert sizes_of(wide).rows == round(56 * rows) and type(wide) is type(model)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_new_rows_are_pairs_that_training_moves_apart():
    wide = widened(tiny_model("bert"))
    up, down = wide.bert.encoder.layer[0].intermediate.dense, wide.bert.encoder.layer[0].output.dense
    assert torch.equal(up.weight[56::2], up.weight[:14]) and torch.equal(up.weight[57::2], up.weight[:14])
    assert torch.equal(down.weight[:, 56::2], down.weight[:, :14])
    assert torch.equal(down.weight[:, 57::2], -down.weight[:, :14])
    outputs(wide.train())
    hf_mpq_inputs = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    wide(input_ids=hf_mpq_inputs, labels=torch.tensor([0, 1])).loss.backward()
    assert (up.weight.grad[56::2] - up.weight.grad[57::2]).abs().amax(1).ne(0).all()
    assert up.weight.grad[56:].abs().amax(1).ne(0).all()


@pytest.mark.parametrize("inputs", [None, 8])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_quantized_model_is_the_same_when_it_is_made_wider_and_when_a_width_opens(family, inputs):
    """Bit for bit what the narrow one gives, as each sub-group has the rows it had."""
    narrow = put_in_order(tiny_model(family), rows=True)
    rules = {pattern: {"groups": 4} for pattern in UP}
    narrow = hf_mpq.quantize(narrow, MPQConfig(bits=2, groups=8, rules=rules, activation_bits=inputs))
    model = open_model(family, activation_bits=inputs)
    with torch.no_grad():
        for gate in wide_gates(model).values():
            gate.logits[0, gate.open.nonzero().max()] = 1e3
    expected = outputs(narrow)[0]
    torch.testing.assert_close(outputs(model)[0], expected, atol=2e-6, rtol=0)
    opened = [gate.expand(1.0) for gate in wide_gates(model).values()]
    assert all(opened) and all(0.4 < gate.kept()[4] < 0.6 for gate in wide_gates(model).values())
    torch.testing.assert_close(outputs(model)[0], expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_mixture_in_a_model_is_that_of_the_second_matrix_at_each_width(family):
    model = open_model(family)
    move(model)
    for name, gate in wide_gates(model).items():
        reader = next(
            one for other, one in matrices(model) if getattr(one, "_feeder", ()) and one._feeder[0].gate is gate
        )
        x = torch.randn(5, reader.in_features)
        layout = dict(matrices(model))[name].spec.layout
        ends = torch.tensor(layout.sizes[: layout.count // layout.shards]).cumsum(0)
        pi = (gate.logits[0].masked_fill(~gate.open, -torch.inf) / gate.temperature).softmax(0)
        weight, bias = reader.quantized_weight(), reader.stored_bias()
        parts = [
            share * x[:, : ends[size - 1]] @ weight[:, : ends[size - 1]].T
            for share, size in zip(pi, gate.sizes)
            if share
        ]
        expected = sum(parts) + (0 if bias is None else bias)
        torch.testing.assert_close(reader(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "family, cost", [("bert", "size"), ("modernbert", "size"), ("albert", "bops"), ("bert", "bits")]
)
def test_sure_widths_cost_exactly_what_is_stored_and_both_matrices_shrink(family, cost):
    model = open_model(family, activation_bits=8)
    found = []
    for places in ((8, 8), (0, 3)):
        surely(model, places)
        measured = COSTS[cost](space_of(model))
        exact = measured.of(hf_mpq.nn.derive(model))
        expected = measured.expected(usages(model)).item()
        padding = 16 * len(wide_gates(model)) * 2 if cost == "size" else 0  # whole words of codes and flags
        assert expected == pytest.approx(exact, rel=0 if padding else 2e-3, abs=padding)
        found.append((expected, exact))
    assert found[1][0] < found[0][0] and found[1][1] < found[0][1]
    codes = (28 + 56) * 32 * 2 / 8  # of the rows that leave, and as many of the columns that read them
    assert cost != "size" or found[0][1] - found[1][1] >= 2 * codes * (1 if family == "bert" else 1.5)


@pytest.mark.parametrize("cost", ["bops", "size"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_the_expected_cost_is_that_of_the_expected_width(family, cost):
    """Both matrices are linear in it, in gated units too, whose halves go together."""
    model = open_model(family)
    size = COSTS[cost](space_of(model))
    with torch.no_grad():
        for gate in wide_gates(model).values():
            gate.open.fill_(True)
            gate.logits.fill_(-1e3)
            gate.logits[0, [2, 8]] = 0
    mixed = size.expected(usages(model)).item()
    ends = []
    for place in (2, 8):
        surely(model, (place, place))
        ends.append(size.expected(usages(model)).item())
    assert mixed == pytest.approx(sum(ends) / 2, rel=1e-4, abs=64 if cost == "size" else 0)
    surely(model, (4, 4))
    with torch.no_grad():
        for gate in wide_gates(model).values():
            gate.logits.zero_()
    size.expected(usages(model)).backward()
    assert all(gate.logits.grad.ne(0).any() for gate in wide_gates(model).values())


@pytest.mark.parametrize("family, inputs", [("bert", 8), ("modernbert", None), ("albert", 8)])
def test_what_is_decided_is_the_limit_of_what_was_mixed(family, inputs, tmp_path):
    model = open_model(family, activation_bits=inputs)
    surely(model, (1, 6))
    for _, layer in matrices(model):
        layer.calibrate()
    expected = outputs(model)[0]
    hf_mpq.fix(model)
    found = [one.bits for one in assignment_of(model).matrices.values() if 0 in one.bits]
    assert [sum(map(bool, bits)) / len(bits) for bits in found] == [2 / 6, 5 / 6][: len(found)]
    torch.testing.assert_close(outputs(model)[0], expected, atol=2e-6, rtol=0)
    hf_mpq.pack(model).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(outputs(again)[0], expected, atol=2e-6, rtol=0)


def packed_at_widths(family="bert", inputs=8, places=(1, 6)):
    """Packed, with another width in each layer, of which the second is above the original."""
    model = open_model(family, activation_bits=inputs)
    surely(model, places)
    return hf_mpq.pack(hf_mpq.fix(model)).eval()


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_every_backend_runs_layers_of_several_widths(family):
    check_backends(packed_at_widths(family))


@pytest.mark.full
def test_every_export_takes_layers_of_several_widths_or_says_why_not(tmp_path):
    check_exports(packed_at_widths(), tmp_path, list(EXPORTERS))


def test_the_dense_export_is_as_wide_as_the_widest_layer(tmp_path):
    model = packed_at_widths(inputs=None)
    check_exports(model, tmp_path, ["dense"])
    assert type(model).from_pretrained(tmp_path / "dense").config.intermediate_size == 70


def test_a_decision_that_is_refused_leaves_biases_as_they_were():
    model = open_model()
    found = assignment_of(hf_mpq.fix(copy.deepcopy(model)))
    layer = model.bert.encoder.layer[0]
    bias = layer.intermediate.dense.bias.detach().clone()
    layer.output.dense.program.live_columns[0] = False
    with pytest.raises(ValueError, match="folded away before"):
        hf_mpq.fix(model, found)
    assert torch.equal(layer.intermediate.dense.bias, bias) and model.bert.encoder.layer[0].output.dense._feeder


def test_a_judge_measures_what_fix_makes():
    model = open_model()
    move(model)
    found = assignment_of(hf_mpq.fix(copy.deepcopy(model)))
    before, seen = outputs(model)[0], []
    Judge(model, lambda live: seen.append(outputs(live)[0]) or 0.0).damage(found)
    take_path(model, {})
    assert torch.equal(outputs(model)[0], before)
    fixed = hf_mpq.fix(copy.deepcopy(model), found)
    for (_, layer), (_, own) in zip(matrices(fixed), matrices(model)):  # which fix sets anew where columns went
        layer.program.quantizer.load_state_dict(own.program.quantizer.state_dict())
    torch.testing.assert_close(seen[0], outputs(fixed)[0], atol=2e-6, rtol=0)


def test_an_open_model_is_saved_copied_and_made_plain_as_it_is(tmp_path):
    model = open_model(activation_bits=8)
    move(model)
    expected = outputs(model)[0]
    copied = copy.deepcopy(model)
    assert torch.equal(outputs(copied)[0], expected)
    with torch.no_grad():
        next(iter(wide_gates(copied).values())).logits[0, 0] = 1e3
    assert not torch.equal(outputs(copied)[0], expected) and torch.equal(outputs(model)[0], expected)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(outputs(again)[0], expected)
    opened = [[gate.open.tolist() for gate in wide_gates(one).values()] for one in (again, model)]
    assert opened[0] == opened[1]
    plain = open_model()
    move(plain)
    expected = outputs(plain)[0]
    torch.testing.assert_close(outputs(plain.dequantize())[0], expected, atol=2e-6, rtol=0)


def test_only_first_feed_forward_matrices_are_open():
    for family in ("distilbert", "deberta-v2"):
        model = open_model(family)
        found = wide_gates(model)
        assert found and all(gate.searching for gate in found.values())
        closed = [layer for name, layer in matrices(model) if name not in found and layer.spec.role == "encoder"]
        assert closed and all(layer.spec.bits == (2,) * layer.spec.layout.count for layer in closed)


@pytest.mark.parametrize(
    "config, words",
    [
        ({"bits": (0, 2, 4)}, "give 0 and that"),
        ({"bits": (2, 4)}, "give 0 and that"),
        ({"rules": {"output.dense$": {"bits": None}}}, "is float, or cut by columns"),
        ({"rules": {"output.dense$": {"groups": "columns:4"}}}, "is float, or cut by columns"),
        ({"rules": {"intermediate": {"groups": "columns:4"}}}, "groups must cut rows"),
    ],
)
def test_widths_that_cannot_be_chosen_are_refused(config, words):
    fields = {"bits": (0, 2), "gate": "width", "groups": 8, **config}
    with pytest.raises(ValueError, match=words):
        hf_mpq.quantize(tiny_model("bert"), MPQConfig(**fields))


def test_a_family_that_is_not_known_is_refused():
    from transformers import AutoModelForSequenceClassification, ConvBertConfig

    small = ConvBertConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=56
    )
    model = AutoModelForSequenceClassification.from_config(small)
    with pytest.raises(ValueError, match="of no known family"):
        hf_mpq.quantize(model, MPQConfig(bits=(0, 2), gate="width", groups=8))


def test_a_gate_of_its_own_matrix_is_refused():
    family = next(name for name in MORE if TABLE[name].names.gate is not None)
    with pytest.raises(ValueError, match="is a matrix of its own and has to be as wide"):
        hf_mpq.quantize(tiny_model(family), MPQConfig(bits=(0, 2), gate="width", groups=8))


def test_a_reshape_is_registered_and_says_what_is_wrong():
    assert list(RESHAPES) == ["widen"]
    with pytest.raises(ValueError, match="multiplied by at least 1"):
        widened(tiny_model("bert"), 0.9)
    with pytest.raises(ValueError, match=r"unknown option of reshape 'widen': 'row'; did you mean 'rows'"):
        RESHAPES.check_options("widen", {"row": 2})
    assert isinstance(RESHAPES.make("widen", tiny_model("bert"), options={"rows": 2}), nn.Module)
