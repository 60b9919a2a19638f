"""ADMM against what can be computed: projections over all masks, multipliers in closed form, sums of residuals."""

from itertools import combinations

import pytest
import torch
from torch import nn

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import SubgroupLayout
from hf_mpq.nn.walk import matrices
from hf_mpq.search.schedules import SCHEDULES
from hf_mpq.search.strategies import Progress
from hf_mpq.weights import MASKS
from tests.nn.cases import linear_of
from tests.tiny import tiny_model

LAYOUT = SubgroupLayout((3, 8), 1)


def at(step, steps=40):
    return Progress(step, steps, 10)


def quantized(**config):
    return hf_mpq.quantize(tiny_model("bert"), MPQConfig(**{"bits": 4, "groups": 4, "mask": "n:m", **config}))


def one_matrix(weight=None):
    """A model of a single 2:4 matrix."""
    model = nn.Module()
    model.layer = linear_of(LAYOUT, (8,), mask="n:m")
    if weight is not None:
        model.layer.weight.data.copy_(weight)
    return model


@pytest.mark.parametrize(("kept", "block"), [(2, 4), (1, 4), (3, 5)])
def test_the_projection_is_the_nearest_of_all_masks(kept, block):
    """Ties, zeros and signs included: as many are kept, and no other mask is nearer."""
    values = torch.randint(-2, 3, (50, 3 * block), generator=torch.Generator().manual_seed(0)).float()
    chosen = MASKS["n:m"](values.shape, kept, block).choose(values)
    blocks, keeps = values.view(-1, block), chosen.view(-1, block)
    masks = torch.tensor([[i in places for i in range(block)] for places in combinations(range(block), kept)])
    nearest = (blocks.unsqueeze(1) * ~masks).square().sum(-1).amin(1)
    assert (keeps.sum(1) == kept).all()
    torch.testing.assert_close((blocks * ~keeps).square().sum(1), nearest, rtol=0, atol=0)


def test_a_quadratic_ends_at_the_closed_form():
    """of 1/2 (w - a)' H (w - a) with diagonal H: w = a where it is kept and 0 elsewhere, rho U = H (a - w)."""
    random = torch.Generator().manual_seed(0)
    large = torch.tensor([3.0, 0.3, -3.0, -0.2]).repeat(3, 2)
    a, curvature = large + 0.1 * torch.rand(3, 8, generator=random), 1 + torch.rand(3, 8, generator=random)
    model, rho = one_matrix(a), 0.7
    schedule = SCHEDULES.make("admm", options={"rho": rho, "every": 1})
    schedule.prepare(model)
    weight = model.layer.weight
    for step in range(100):
        loss = 0.5 * (curvature * (weight - a).square()).sum() + schedule.penalty(model, at(step, 100))
        (gradient,) = torch.autograd.grad(loss, weight)
        weight.data -= gradient / (curvature + rho)  # the minimum of this step
        schedule.after_step(model, at(step + 1, 100))
    kept = a * torch.tensor([True, False, True, False]).repeat(3, 2)
    torch.testing.assert_close(weight.data, kept, atol=1e-5, rtol=0)
    torch.testing.assert_close(rho * schedule.dual["layer"], curvature * (a - kept), atol=1e-5, rtol=0)
    assert schedule.metrics(model)["primal_residual"] < 1e-5


@pytest.mark.parametrize("every", [1, 4, 0.1])
def test_the_dual_is_the_sum_of_the_residuals(every):
    """Bit for bit, also in the hands of a schedule that took over in the middle."""
    model, schedule = one_matrix(), SCHEDULES.make("admm", options={"every": every})
    schedule.prepare(model)
    total, seen = torch.zeros(LAYOUT.shape) + (model.layer.weight.data - schedule.projected["layer"]), 1
    for step in range(1, 41):
        model.layer.weight.data += 0.1 * torch.randn(LAYOUT.shape, generator=torch.Generator().manual_seed(step))
        before = schedule.projected["layer"]
        schedule.after_step(model, at(step))
        if schedule.projected["layer"] is not before:
            total, seen = total + (model.layer.weight.data - schedule.projected["layer"]), seen + 1
        if step == 22:
            state = schedule.state_dict()
            schedule = SCHEDULES.make("admm", options={"every": every})
            schedule.load_state_dict(state)
    assert seen == 1 + (10 if every == 4 or every == 0.1 else 40)
    assert torch.equal(schedule.dual["layer"], total)


def test_the_penalty_is_that_of_the_paper_and_nothing_at_rho_0():
    model = quantized()
    schedule = SCHEDULES.make("admm", options={"rho": 0.3})
    schedule.prepare(model)
    wanted = sum(
        0.15 * (layer.weight - schedule.projected[name] + schedule.dual[name]).square().sum()
        for name, layer in matrices(model)
        if layer.program.mask is not None
    )
    torch.testing.assert_close(schedule.penalty(model, at(0)), wanted)
    schedule.penalty(model, at(0)).backward()
    name = "encoder.layer.0.output.dense"
    layer = dict(matrices(model))[name]
    torch.testing.assert_close(layer.weight.grad, 0.3 * (layer.weight - schedule._target(name, layer)).detach())
    assert SCHEDULES.make("admm", options={"rho": 0}).penalty(model, at(0)) is None


def test_masks_are_open_until_the_end_and_then_every_block_keeps_its_number():
    """In training as in the packed model; scales are those of open masks in between."""
    model, dense = quantized(mask_options={"kept": 1}), quantized(mask=None)
    schedule = SCHEDULES.make("admm")
    schedule.prepare(model)
    for name, layer in matrices(dense):
        ours = dict(matrices(model))[name]
        assert torch.equal(ours.quantized_weight(), layer.quantized_weight())
    schedule.finish(model)
    for _, layer in matrices(model):
        if layer.program.mask is not None:
            assert ((layer.float_weight() != 0).unflatten(1, (-1, 4)).sum(-1) == 1).all()
            largest = layer.weight.abs().unflatten(1, (-1, 4)).amax(-1)
            assert torch.equal(layer.float_weight().abs().unflatten(1, (-1, 4)).amax(-1), largest)
    hf_mpq.pack(model)
    kept = [layer.kept_weights() for layer in model.modules() if getattr(layer, "keep_of", None) is not None]
    assert kept and all((keep.unflatten(1, (-1, 4)).sum(-1) == 1).all() for keep in kept)


def test_a_locked_mask_is_left_alone():
    model = quantized()
    masks = [layer.program.mask for _, layer in matrices(model) if layer.program.mask is not None]
    masks[0].locked, before = True, masks[0].keep.clone()
    schedule = SCHEDULES.make("admm")
    schedule.prepare(model)
    schedule.finish(model)
    assert torch.equal(masks[0].keep, before) and len(schedule.dual) == len(masks) - 1


def test_where_every_pattern_was_decided_to_be_dense_it_does_nothing():
    model = quantized(mask=None, patterns=("dense", "2:4"))
    hf_mpq.fix(model, hf_mpq.assignment_of(model))
    schedule = SCHEDULES.make("admm")
    schedule.prepare(model)
    schedule.after_step(model, at(4))
    assert schedule.penalty(model, at(4)) is None and schedule.metrics(model) == {"primal_residual": 0.0}
    schedule.finish(model)


def test_a_model_without_masks_and_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="admm needs masks"):
        SCHEDULES.make("admm").prepare(quantized(mask=None))
    for options, words in (({"rho": -1}, "from 0"), ({"every": 0}, "number of steps"), ({"every": 2.5}, "got 2.5")):
        with pytest.raises(ValueError, match=words):
            SCHEDULES.make("admm", options=options)
