"""What learned parameters are to the optimizer is declared by the modules that own them."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_mpq.core import ActivationSpec, Registry, SubgroupLayout
from hf_mpq.nn.walk import matrices
from hf_mpq.training.stage.module import StageModule
from hf_mpq.training.stage.optimizer import ParameterGroups, stage_optimizer
from hf_mpq.training.stage.relative_adam import RelativeAdam, UnitAdam
from hf_mpq.weights import ACTIVATIONS, GATES, QUANTIZERS, SOURCES, TRANSFORMS, ActivationQuantizer
from hf_mpq.weights.masks import MASKS
from hf_mpq.weights.quantizers import LearnedStepQuantizer
from hf_mpq.weights.roles import parameters_by_precision, roles_in
from tests.training.runs import quantized, sentences, trainer
from tests.weights.cases import going_with

LAYOUT = SubgroupLayout((8, 8), 4)
EVERY_GROUP = frozenset({"weights", "quantizers", "gates"})
MAKERS = [
    (QUANTIZERS, lambda kind: kind(LAYOUT, (2, 4))),
    (GATES, lambda kind: kind(4, (2, 4, 8))),
    (MASKS, lambda kind: kind((8, 8))),
    (SOURCES, lambda kind: kind(LAYOUT, (2, 4))),
    (TRANSFORMS, lambda kind: kind((8, 8))),
    (ACTIVATIONS, lambda kind: ActivationQuantizer.from_spec(ActivationSpec(kind.name, 8))),
]
PARTS = [
    pytest.param(make, registry[name], id=registry[name].__name__) for registry, make in MAKERS for name in registry
]


@pytest.mark.parametrize(("make", "kind"), PARTS)
def test_every_registered_part_declares_what_it_learns(make, kind):
    part = make(kind)
    declared = list(roles_in(part))
    assert {id(one.parameter) for one in declared} == {id(one) for one in part.parameters()}
    for one in declared:
        if one.role in ("offsets", "planes"):
            assert part.unit(one.name).expand_as(one.parameter) is not None


@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_a_quantizer_declares_what_every_precision_has_entries_of_its_own_in(name):
    torch.manual_seed(0)
    part, weight = QUANTIZERS[name](LAYOUT, (2, 3, 4)), torch.randn(8, 8)
    part.calibrate(weight)
    learned = dict(part.named_parameters())
    found = (
        [torch.autograd.grad(part.candidate(weight, b).square().sum(), [*learned.values()]) for b in (2, 3, 4)]
        if learned
        else []
    )
    apart = {key for key, grads in zip(learned, zip(*found)) if sum((grad != 0).int() for grad in grads).max() == 1}
    assert part.by_precision == apart
    assert {id(one) for one in parameters_by_precision(part)} == {id(learned[key]) for key in apart}


def groups_of(model):
    return ParameterGroups.of(StageModule(model, {}))


CASES = {
    "lsq": {"quantizer": "lsq"},
    "nested": {"bits": (2, 4, 8), "nested": True, "switchable_norms": True},
    "learned activations": {"activation": "learned", "attention_bits": 8},
    "open": {"bits": (2, 4), "quantizer": "lsq"},
    "learned ranges": {"bits": (2, 4), "quantizer": "learned-range", "gate": "learned-range"},
    "planes": {"bits": (2, 4), "gate": "planes", **going_with("planes")},
}


@pytest.mark.parametrize("case", CASES)
def test_each_parameter_is_in_one_group_and_only_weights_may_decay(case):
    model = quantized(None, **CASES[case])
    groups = groups_of(model)
    every = groups.every
    learned = [one for one in model.parameters() if one.requires_grad]  # planes have a copy of the weight beside them
    assert len(every) == len({id(one) for one in every}) == len(learned)
    assert not any("program" in name for name in groups.weights)
    assert bool(groups.offsets) == (case == "learned activations")
    assert bool(groups.planes) == (case == "planes")
    assert bool(groups.gates) == (case in ("open", "planes")) and bool(groups.gate_scales) == (case == "learned ranges")


def test_passes_update_weights_quantizers_and_gates_apart():
    model = quantized(None, **CASES["learned ranges"])
    groups, layers = groups_of(model), [layer for _, layer in matrices(model)]
    ids = lambda several: {id(one) for one in several}  # noqa: E731
    ranges = ids(one for layer in layers for one in layer.program.quantizer.parameters())
    assert len(ranges) == sum(layer.spec.role == "encoder" for layer in layers)  # others have constant scales
    steps = ids(one for layer in layers if layer.program.gate.searching for one in layer.program.gate.parameters())
    assert {name: len(several) for name, several in groups.by_group.items()}.keys() == EVERY_GROUP
    assert ids(groups.held(EVERY_GROUP - {"quantizers"})) == ranges
    assert ids(groups.held(EVERY_GROUP - {"gates"})) == steps
    assert ids(groups.held(frozenset({"weights"}))) == ranges | steps and not groups.held(EVERY_GROUP)
    strategy = SimpleNamespace(gate_optimizer=lambda: ("adam", {"lr": 0.25}))
    optimizer = stage_optimizer(groups, strategy, (torch.optim.AdamW, {"lr": 1e-4}), set(), 0.0, 1e-3)
    rates = {name: [group["lr"] for group in part.param_groups] for name, part in optimizer.parts.items()}
    assert rates == {"weights": [1e-4, 1e-4], "scales": [1e-3], "gate scales": [0.25]}
    assert type(optimizer.parts["gate scales"]) is RelativeAdam


def test_offsets_move_by_shares_of_their_range():
    model = quantized(None, bits=4, activation="learned")
    quantizer = model.bert.encoder.layer[0].output.dense.input_quantizer
    with torch.no_grad():
        quantizer.step.fill_(0.1), quantizer.offset.fill_(-3.0)
    groups = groups_of(model)
    optimizer = stage_optimizer(groups, None, (torch.optim.AdamW, {"lr": 1e-4}), set(groups.weights), 0.5, 1e-2)
    quantizer.step.grad, quantizer.offset.grad = torch.tensor(1e-3), torch.tensor(-1e-6)
    optimizer.step()
    assert quantizer.step.item() == pytest.approx(0.1 * math.exp(-0.01))
    assert quantizer.offset.item() == pytest.approx(-3.0 + 0.01 * 255 * quantizer.step.item(), rel=1e-4)
    assert {type(part) for part in optimizer.parts.values()} == {torch.optim.AdamW, RelativeAdam, UnitAdam}
    again = stage_optimizer(groups, None, (torch.optim.AdamW, {"lr": 1e-4}), set(groups.weights), 0.5, 1e-2)
    again.load_state_dict(optimizer.state_dict())
    quantizer.offset.grad = torch.tensor(-1e-6)
    before = quantizer.offset.item()
    again.step()
    assert quantizer.offset.item() > before


def test_a_part_that_does_not_say_is_refused(tmp_path, monkeypatch):
    class Silent(LearnedStepQuantizer):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.shift = nn.Parameter(torch.zeros(()))

    registry = Registry("weight quantizer")
    for name in QUANTIZERS:
        registry.add(name, Silent if name == "lsq" else QUANTIZERS[name])
    monkeypatch.setattr("hf_mpq.weights.program.QUANTIZERS", registry)
    run = trainer(quantized("uniform"), tmp_path, max_steps=1)
    with pytest.raises(ValueError, match=r"Silent has a parameter 'shift' without a role: add it to the class's"):
        run.train()


@pytest.mark.parametrize("norms", [False, True])
def test_every_precision_of_a_nested_model_is_trained(norms, tmp_path):
    model = quantized(None, bits=(2, 4, 8), nested=True, switchable_norms=norms, groups=4)
    scales = {name: layer.program.quantizer.scale for name, layer in matrices(model) if layer.spec.nested}
    before = {name: scale.detach().clone() for name, scale in scales.items()}
    norm = model.bert.encoder.layer[0].output.LayerNorm
    run = trainer(
        model,
        tmp_path,
        max_steps=5,
        learning_rate=1e-4,
        save_strategy="no",
        weight_decay=0.1,
        train_dataset=sentences(40),
    )
    run.train()
    for name, scale in scales.items():
        change = ((scale - before[name]) / before[name]).abs().amax(0)
        assert (change > 0).all() and (change < 5 * 1e-3).all(), name
    if norms:
        assert all(not torch.equal(row, torch.ones_like(row)) for row in norm.lower_weight)
    assert scales and all(layer.program.gate.active == 8 for _, layer in matrices(model) if layer.spec.nested)
