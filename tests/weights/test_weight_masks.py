"""Masks keep exactly as many weights as they say, and what they drop is zero, in training and when stored."""

import pytest
import torch
from torch import nn

from hf_mpq.core import SubgroupLayout, WeightSpec
from hf_mpq.nn import MPQLinear
from hf_mpq.nn.packing import pack_matrix
from hf_mpq.weights import MASKS, QUANTIZERS
from tests.weights.cases import MIXED, program_of

LAYOUT = SubgroupLayout((9, 12), 4)
OPTIONS = {"element": {"density": 0.4}, "n:m": {"kept": 1, "block": 3}}
MIXING = [name for name in QUANTIZERS if name != "nested"]


@pytest.mark.parametrize("draw", [torch.randn, torch.ones], ids=["random", "all ties"])
@pytest.mark.parametrize("density", [0.05, 0.4, 1 / 3, 1.0])
def test_element_keeps_the_largest_and_exactly_as_many(draw, density):
    weight = draw(9, 12)
    mask = MASKS["element"](weight.shape, density=density)
    mask.initialise(weight)
    assert int(mask.keep.sum()) == round(density * weight.numel())
    if not mask.keep.all():
        assert weight[mask.keep].abs().min() >= weight[~mask.keep].abs().max()


@pytest.mark.parametrize("draw", [torch.randn, torch.ones], ids=["random", "all ties"])
@pytest.mark.parametrize(("kept", "block"), [(2, 4), (1, 3), (4, 4), (5, 6)])
def test_blocks_keep_exactly_n_of_every_m(draw, kept, block):
    weight = draw(9, 12)
    mask = MASKS["n:m"](weight.shape, kept=kept, block=block)
    mask.initialise(weight)
    blocks, sizes = mask.keep.view(9, -1, block), weight.abs().view(9, -1, block)
    assert (blocks.sum(-1) == kept).all()
    least = sizes.masked_fill(~blocks, torch.inf).amin(-1)
    assert (least >= sizes.masked_fill(blocks, 0).amax(-1)).all()


@pytest.mark.parametrize("options", [{"block": 5}, {"kept": 0}, {"kept": 5}])
def test_blocks_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match="cannot keep"):
        MASKS["n:m"]((9, 12), **options)


@pytest.mark.parametrize("density", [0.0, 1.5])
def test_densities_outside_the_unit_interval_are_refused(density):
    with pytest.raises(ValueError, match="density"):
        MASKS["element"]((9, 12), density=density)


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_dropped_weights_are_zero_and_get_no_gradient(name, mask):
    weight = torch.randn(9, 12)
    candidates = (4,) if name == "nested" else (0, 1, 4)
    bits = (4,) * 4 if name == "nested" else (4, 1, 0, 4)
    program = program_of(name, LAYOUT, weight, candidates=candidates, bits=bits, mask=mask, mask_options=OPTIONS[mask])
    weight.requires_grad_()
    value = program(weight)
    value.backward(torch.ones(9, 12))
    dropped = ~program.mask.keep
    assert dropped.any() and not value[dropped].any() and not weight.grad[dropped].any()
    assert not program.float_weight(weight.detach())[dropped].any()
    pruned = LAYOUT.expand(torch.tensor(bits)) == 0
    assert value[~dropped & ~pruned.unsqueeze(1)].ne(0).float().mean() > 0.6


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("name", MIXING)
def test_scales_fit_the_kept_weights_only(name, mask):
    weight = torch.randn(9, 12)
    program = program_of(name, LAYOUT, weight, mask=mask, mask_options=OPTIONS[mask])
    other = torch.where(program.mask.keep, weight, 50.0)
    before = {key: value.clone() for key, value in program.state_dict().items()}
    program.calibrate(other)
    assert all(torch.equal(value, before[key]) for key, value in program.state_dict().items())
    assert torch.equal(program(other), program(weight))
    alone = QUANTIZERS[name](LAYOUT, MIXED)
    for kept, same in ((program.mask.keep, True), (None, not alone.state_dict())):
        alone.calibrate(program.float_weight(weight), kept)
        theirs = program.quantizer.state_dict()
        assert all(torch.equal(value, theirs[key]) == same for key, value in alone.state_dict().items())


@pytest.mark.parametrize("layout", [LAYOUT, SubgroupLayout((9, 12), 5, axis=1)], ids=["rows", "columns"])
@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("name", MIXING)
def test_packed_twins_store_the_kept_weights(name, mask, layout):
    bits = (4, 0, 2, 8, 4)[: layout.count]
    spec = WeightSpec(layout, (0, 2, 4, 8), bits, quantizer=name, mask=mask, mask_options=OPTIONS[mask])
    layer = MPQLinear.from_linear(nn.Linear(12, 9), spec)
    layer.initialise()
    layer.calibrate()
    packed = pack_matrix(layer)
    assert torch.equal(packed.weight, layer.quantized_weight())
    kept = layout.lines(layer.program.mask.keep)
    line_bits = layout.expand(torch.tensor(bits))
    assert packed.stored.kept == {b: int(kept[line_bits == b].sum()) for b in sorted(set(bits) - {0})}
    assert all(packed.get_buffer(key).numel() == size for key, size in packed.stored.buffers().items())


def test_a_precision_whose_weights_are_all_dropped_is_packed():
    linear = nn.Linear(12, 9)
    linear.weight.data[-2:] *= 1e-3
    spec = WeightSpec(LAYOUT, (2, 4), (4, 4, 4, 2), mask="element", mask_options={"density": 0.3})
    layer = MPQLinear.from_linear(linear, spec)
    layer.initialise()
    layer.calibrate()
    packed = pack_matrix(layer)
    assert packed.stored.kept[2] == 0
    assert torch.equal(packed.weight, layer.quantized_weight())
