"""`fix` applies every field of an assignment, or refuses it and changes nothing; what is saved is that model."""

import copy
import random
from dataclasses import replace

import pytest
import torch

import hf_mpq
from hf_mpq import Assignment, MPQConfig
from hf_mpq.core import MatrixAssignment, ModelShape
from hf_mpq.nn import MPQLinear, calibrate_activations
from hf_mpq.nn.walk import matrices
from hf_mpq.weights import ACTIVATIONS
from tests.plugin.models import close, reload
from tests.tiny import MOST, outputs, tiny_batch, tiny_model

OPEN = {
    "plain": {"bits": (0, 2, 4, 8), "groups": 10},
    "n:m": {"bits": (2, 4), "groups": 8, "mask": "n:m", "mask_options": {"kept": 1, "block": 4}},
    "patterns": {"bits": (2, 4), "groups": 8, "patterns": ("dense", "2:4", "1:4")},
    "patterns alone": {"bits": 4, "patterns": ("2:4", "1:8"), "rules": {"output": {"patterns": ("dense", "1:4")}}},
    "element": {"bits": (2, 4), "groups": 8, "mask": "element"},
    "nested": {"bits": (2, 4, 8), "nested": True},
    "columns": {"bits": (0, 4), "groups": "columns:4"},
    "table": {"bits": (2, 4), "embedding_bits": (4, 8)},
    "float inputs": {"bits": (2, 4), "activation_bits": None},
    "open inputs": {"bits": (0, 2, 4), "groups": 10, "activation_bits": (2, 4, 8)},
    "inputs alone": {"bits": 4, "activation_bits": (4, 8), "gate": "fixed"},
    "as the weights": {"bits": (0, 2, 3, 8), "groups": 4, "activation_bits": "weights"},
    "each its own": {
        "bits": (0, 2, 4),
        "groups": 4,
        "rules": {
            "query|output": {"mask": "n:m", "activation_bits": None},
            "up|intermediate": {"activation_bits": (2, 8)},
            "pooler": {"mask": "element"},
        },
    },
}
RANGES = [name for name in ACTIVATIONS if name != "probabilities" and not ACTIVATIONS[name].packed_form]


def some_assignment(model) -> Assignment:
    """Every open precision and every activation bit in turn, and all that the model has besides."""
    found = hf_mpq.assignment_of(model)
    chosen = {}
    for number, (name, layer) in enumerate(matrices(model)):
        bits = layer.spec.candidates if layer.program.gate.searching else None
        group = found.matrices[name]
        if layer.spec.patterns:
            group = replace(group, keep_of=layer.spec.patterns[number % len(layer.spec.patterns)])
        chosen[name] = (
            replace(group, bits=tuple(bits[(number + i) % len(bits)] for i in range(len(group.bits))))
            if bits
            else group
        )
    inputs = {name: 3 + number % 6 for number, name in enumerate(found.activation_bits)}
    return Assignment(chosen, inputs)


@pytest.mark.parametrize("family", MOST)
@pytest.mark.parametrize("kind", OPEN)
def test_what_is_derived_is_what_was_given(kind, family, tmp_path):
    """And so it is in either storage, and after loading."""
    model = hf_mpq.quantize(tiny_model(family), MPQConfig(**OPEN[kind]))
    given = some_assignment(model)
    assert hf_mpq.assignment_of(hf_mpq.fix(model, given)) == given
    before = outputs(model)
    model.save_pretrained(tmp_path / "trainable")
    again = reload(tmp_path / "trainable")
    assert hf_mpq.assignment_of(again) == given and model.config.quantization_config.assignment == given.to_dict()
    close(before, outputs(again), 0)
    hf_mpq.pack(model).save_pretrained(tmp_path / "packed")
    packed = reload(tmp_path / "packed")
    assert hf_mpq.assignment_of(packed) == given
    close(before, outputs(packed))
    close(before, outputs(hf_mpq.unpack(packed)))
    assert hf_mpq.assignment_of(packed) == given


def random_assignment(model, seed: int) -> Assignment:
    """Any bits, any activation bits, and the patterns and nested precisions that the model has."""
    draw, found = random.Random(seed), hf_mpq.assignment_of(model)
    chosen = {}
    for name, layer in matrices(model):
        one = found.matrices[name]
        if layer.program.gate.searching:
            one = replace(one, bits=tuple(draw.choices(layer.spec.candidates, k=len(one.bits))))
        if layer.spec.patterns:
            one = replace(one, keep_of=draw.choice(layer.spec.patterns))
        chosen[name] = one
    return Assignment(chosen, {name: draw.randint(2, 8) for name in found.activation_bits})


@pytest.mark.parametrize("kind", OPEN)
def test_any_assignment_is_derived_as_it_was_fixed_or_resolved(kind):
    """In place, on a model quantized with it, and packed."""
    start = hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), MPQConfig(**OPEN[kind]))
    for seed in range(3):
        given = random_assignment(start, seed)
        fixed = hf_mpq.fix(copy.deepcopy(start), given)
        made = hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), MPQConfig(**OPEN[kind], assignment=given))
        for model in (fixed, made):
            assert hf_mpq.assignment_of(model) == given
        space = made.config.quantization_config.resolve(made)
        assert {name: spec.activation.bits for name, spec in space.weights.items() if spec.activation} == dict(
            given.activation_bits
        )
        assert hf_mpq.assignment_of(hf_mpq.pack(fixed)) == given


@pytest.mark.parametrize("activation", [name for name in RANGES if name != "basis"])  # has as many parts as bits
def test_activation_bits_are_those_of_a_model_made_with_them(activation):
    """Over ranges that were observed before."""
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=8, activation=activation))
    calibrate_activations(model, [tiny_batch()])
    given = some_assignment(model)
    rules = {f"^{name}$": {"activation_bits": bits} for name, bits in given.activation_bits.items()}
    other = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=8, activation=activation, rules=rules))
    ranges = {name: layer.input_quantizer for name, layer in matrices(model) if name in given.activation_bits}
    for name, layer in matrices(other):
        if name in ranges:
            layer.input_quantizer.load_state_dict(ranges[name].state_dict())
            if activation == "learned":
                layer.input_quantizer.step.data *= 255 / (2 ** given.activation_bits[name] - 1)
    close(outputs(other), outputs(hf_mpq.fix(model, given)))


def test_packed_ranges_take_other_bits_too():
    """Ranges that no longer change, of an unpacked model: twice as fine a step is half as large."""
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=8, activation="static"))
    calibrate_activations(model, [tiny_batch()])
    hf_mpq.unpack(hf_mpq.pack(model))
    quantizers = {name: layer.input_quantizer for name, layer in matrices(model, MPQLinear)}
    before = {name: quantizer.grid(torch.zeros(1)) for name, quantizer in quantizers.items()}
    found = hf_mpq.assignment_of(model)
    hf_mpq.fix(model, replace(found, activation_bits=dict.fromkeys(found.activation_bits, 4)))
    for name, quantizer in quantizers.items():
        grid = quantizer.grid(torch.zeros(1))
        torch.testing.assert_close(grid.step, before[name].step * 17)
        assert (grid.low, grid.high) == (0, 15) and abs(grid.zero - before[name].zero / 17) <= 0.5


def test_what_is_left_out_stays():
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 4), groups=8, activation_bits=6, mask="n:m"))
    given = some_assignment(model)
    bits = {name: MatrixAssignment(matrix.bits) for name, matrix in given.matrices.items()}
    found = hf_mpq.assignment_of(hf_mpq.fix(model, Assignment(bits)))
    assert set(found.activation_bits.values()) == {6}
    patterns = {matrix.keep_of for name, matrix in found.matrices.items() if name.startswith("encoder")}
    assert patterns == {(2, 4)}


def first(assignment: Assignment, **changes) -> Assignment:
    """Its first encoder matrix with other fields."""
    name = next(name for name in assignment.matrices if name.startswith("encoder"))
    return replace(assignment, matrices={**assignment.matrices, name: replace(assignment.matrices[name], **changes)})


def without(assignment: Assignment, name: str) -> Assignment:
    return replace(assignment, matrices={key: value for key, value in assignment.matrices.items() if key != name})


REFUSED = {
    "layers": (
        lambda a: replace(a, shape=ModelShape(layers=(0,))),
        r"has a shape of the model \(layers\), which is not",
    ),
    "widths": (
        lambda a: replace(a, shape=ModelShape(hidden=8, rows=(8,))),
        r"has a shape of the model \(hidden, rows\)",
    ),
    "pattern": (lambda a: first(a, keep_of=(1, 4)), "keeps 1 of every 4 weights, the model does not; quantize it with"),
    "nested": (lambda a: first(a, nested=(2, 8)), r"nested precisions \(2, 8\), the model none; quantize it with"),
    "groups": (lambda a: first(a, bits=(4,)), "has 1 sub-groups, the model 10"),
    "candidates": (lambda a: first(a, bits=(5,) * 10), r"bits \[5\] are not among the candidates"),
    "missing": (lambda a: without(a, "pooler.dense"), "has no matrix 'pooler.dense'"),
    "unknown": (
        lambda a: replace(a, matrices={**a.matrices, "encoder.layer.7.x": MatrixAssignment((4,))}),
        "names 'encoder.layer.7.x', which is no quantized matrix of this BertFor",
    ),
    "inputs of what is unknown": (lambda a: replace(a, activation_bits={"encoder.layer.7.x": 8}), "is no quantized"),
    "inputs of a table": (lambda a: replace(a, activation_bits={"embeddings.word_embeddings": 8}), "which is float in"),
    "input bits": (lambda a: replace(a, activation_bits={"pooler.dense": 1}), "take 2 to 8 bits, the assignment has 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_applied_is_refused(case):
    """With the way out, before anything is changed."""
    change, text = REFUSED[case]
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(0, 2, 4), groups=10))
    before, state = outputs(model), {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=text):
        hf_mpq.fix(model, change(some_assignment(model)))
    close(before, outputs(model), 0)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.config.quantization_config.assignment is None


def test_float_inputs_and_nested_codes():
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4, activation_bits=None))
    given = replace(hf_mpq.assignment_of(model), activation_bits={"pooler.dense": 8})
    with pytest.raises(ValueError, match="has 8 bits for its input, which is float in this model"):
        hf_mpq.fix(model, given)
    with pytest.raises(ValueError, match="8 bits for its input, and activation_bits leaves it float"):
        hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4, activation_bits=None, assignment=given))
    nested = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=(2, 8), groups=10, nested=True))
    with pytest.raises(ValueError, match="stored at 8 bits in every sub-group"):
        hf_mpq.fix(nested, first(hf_mpq.assignment_of(nested), bits=(2,) * 10))


@pytest.mark.parametrize("family", MOST)
def test_one_assignment_fits_every_head(family):
    """Matrices of a head that is not there are passed over."""
    masked = hf_mpq.quantize(tiny_model(family, "masked"), MPQConfig(bits=(2, 4)))
    bare = hf_mpq.quantize(tiny_model(family, "bare"), MPQConfig(bits=(2, 4)))
    given, own = some_assignment(masked), hf_mpq.assignment_of(bare)
    missing = {name: matrix for name, matrix in own.matrices.items() if name not in given.matrices}
    given = replace(given, matrices={**given.matrices, **missing})
    found = hf_mpq.assignment_of(hf_mpq.fix(bare, given))
    assert found.matrices == {name: given.matrices[name] for name in own.matrices}


def test_a_compressed_model_with_a_pattern_is_loaded_as_trainable(tmp_path):
    """N:M patterns are in the allocator's assignment."""
    rows = [{"input_ids": row.tolist()} for row in tiny_batch(8)["input_ids"]]
    config = MPQConfig(bits=(2, 4), mask="n:m")
    small = hf_mpq.compress(
        tiny_model("bert", intermediate_size=64), "1.5bits", rows, config, rounding="nearest", progress=False
    )
    small.save_pretrained(tmp_path)
    again = reload(tmp_path)
    close(outputs(small), outputs(again), 0)
    assert hf_mpq.assignment_of(again) == hf_mpq.assignment_of(small)
    wrong = MPQConfig(
        bits=(2, 4), mask="n:m", mask_options={"kept": 1, "block": 4}, assignment=hf_mpq.assignment_of(small)
    )
    with pytest.raises(ValueError, match=r"keeps \(2, 4\) weights of every block, the config \(1, 4\)"):
        hf_mpq.quantize(tiny_model("bert", intermediate_size=64), wrong)


@pytest.mark.parametrize("shape", [{"layers": (0,)}, {"hidden": 16}, {"heads": (1, 1)}, {"rows": (8, 8)}])
def test_no_shape_is_resolved(shape):
    """Until something applies one."""
    given = hf_mpq.assignment_of(hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=4)))
    config = MPQConfig(bits=4, assignment=replace(given, shape=ModelShape(**shape)))
    with pytest.raises(ValueError, match=rf"shape of the model \({next(iter(shape))}\), which is not applied"):
        hf_mpq.quantize(tiny_model("bert"), config)


def test_a_model_with_shapes_of_its_own():
    model = tiny_model("bert")
    layer = model.bert.encoder.layer[0]
    layer.intermediate.dense, layer.output.dense = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
    hf_mpq.quantize(model, MPQConfig(bits=(2, 4)))
    given = some_assignment(model)
    assert given.shape is None and model.config.quantization_config.shapes
    assert hf_mpq.assignment_of(hf_mpq.fix(model, given)) == given
