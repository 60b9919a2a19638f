"""The program of one weight: the order of its steps, and what it remembers."""

import copy

import pytest
import torch

from hf_mpq.core import WeightSpec
from hf_mpq.weights import GATES, QUANTIZERS, TRANSFORMS, WeightProgram, WeightTransform
from tests.weights.cases import LAYOUTS, cycled, going_with, mixed, program_of, weight_of

LAYOUT = LAYOUTS["uneven rows"]
MIXING = [name for name in QUANTIZERS if name != "nested"]


class Times(WeightTransform):
    """A product."""

    def __init__(self, shape, factor=2.0):
        super().__init__(shape)
        self.factor = factor

    def forward(self, weight):
        return self.factor * weight


class Plus(Times):
    def forward(self, weight):
        return self.factor + weight


def test_transforms_come_in_their_order_before_the_mask_and_the_quantizer(monkeypatch):
    monkeypatch.setitem(TRANSFORMS._items, "z-plus", Plus)
    monkeypatch.setitem(TRANSFORMS._items, "times", Times)
    weight, transforms = weight_of(LAYOUT), {"z-plus": {"factor": 0.01}, "times": {"factor": 4.0}}
    mask = {"mask": "element", "mask_options": {"density": 0.5}}
    program = WeightProgram(WeightSpec(LAYOUT, (8,), quantizer="minmax", transforms=transforms, **mask))
    program.initialise(weight)
    program.calibrate(weight)
    wanted = 4 * (weight + 0.01)
    assert torch.equal(program.float_weight(weight), wanted * program.mask.keep)
    kept = program.mask.keep
    assert ((program(weight) - wanted)[kept].abs() < 0.05 * weight.abs().max()).all()


@pytest.mark.parametrize("gate", [name for name in GATES if not GATES[name].sets_width])
@pytest.mark.parametrize("name", MIXING)
def test_every_gate_drives_every_quantizer(name, gate):
    weight = weight_of(LAYOUT)
    needed = going_with(gate)
    wanted = needed.pop("quantizer", name)
    if wanted != name and (GATES[gate].sets_grid or name in ("minmax", "basis")):
        words = "choose 'learned-range' for both" if GATES[gate].sets_grid else "choose quantizer={'name': 'symmetric'"
        with pytest.raises(ValueError, match=words):
            program_of(name, LAYOUT, weight, gate=gate, candidates=(0, 2, 4), **{**needed, "quantizer_options": {}})
        return
    if name == "learned-range":
        needed.pop("quantizer_options", None)  # it is ternary at 2 bits anyway
    program = program_of(name, LAYOUT, weight, gate=gate, candidates=(0, 2, 4), **needed)
    weight.requires_grad_()
    value = program.train()(weight)
    value.square().sum().backward()
    learned = [*program.source.parameters()] or [weight]
    assert value.isfinite().all() and all(one.grad.isfinite().all() and one.grad.any() for one in learned)
    for parameter in program.gate.parameters():
        assert parameter.grad.flatten(1 if parameter.dim() > 1 else 0).ne(0).any(-1).all()  # a neighbour: of its pair
    assert program.usage().bits.shape == (LAYOUT.count,)
    program.update(weight)


@pytest.mark.parametrize("name", MIXING)
def test_some_rows_of_a_program(name):
    rows = torch.tensor([5, 0, 3])
    for layout in LAYOUTS.values():
        weight = weight_of(layout)
        for fields in ({}, {"mask": "element"}):
            program = program_of(name, layout, weight, bits=cycled(layout, mixed(name)), **fields)
            assert torch.equal(program.rows(weight, rows), program(weight)[rows])


def test_dead_columns_are_forgotten_when_a_program_starts_anew():
    weight = weight_of(LAYOUT)
    program = program_of("symmetric", LAYOUT, weight)
    program.live_columns[2] = False
    program.refresh()
    assert not program(weight)[:, 2].any() and program.keep().shape == (1, 10)
    program.initialise(weight)
    assert program.keep() is None and program(weight)[:, 2].any()


@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_a_state_dict_carries_the_whole_program(name):
    weight = weight_of(LAYOUT)
    candidates = (4, 8) if name == "nested" else mixed(name)
    fields = {"candidates": candidates, "bits": cycled(LAYOUT, candidates), "mask": "element"}
    program, other = (program_of(name, LAYOUT, value, **fields) for value in (weight, weight_of(LAYOUT, 1)))
    program.live_columns[::3] = False
    program.refresh()
    program.calibrate(weight)
    other.load_state_dict(program.state_dict())
    assert torch.equal(other(weight), program(weight))
    assert torch.equal(copy.deepcopy(program)(weight), program(weight))


def test_only_live_columns_are_encoded():
    weight = weight_of(LAYOUT)
    program = program_of("symmetric", LAYOUT, weight, bits=(4, 0, 2, 4))
    whole = program.encode(weight)
    program.live_columns[::3] = False
    program.refresh()
    part = program.encode(weight)
    assert list(part) == [2, 4]
    for bits, stored in part.items():
        assert torch.equal(stored.codes, whole[bits].codes[:, program.live_columns])
        assert torch.equal(stored.floats, whole[bits].floats)


def test_bits_must_fit_the_subgroups():
    with pytest.raises(ValueError, match="3 bits given for 4 sub-groups"):
        program_of("symmetric", LAYOUT, weight_of(LAYOUT), bits=(4, 4, 4))
