"""Masks keep exactly as many weights as they say, and what they drop is zero, in training and when stored."""

import pytest
import torch
from torch import nn

from hf_mpq.core import SubgroupLayout, WeightSpec
from hf_mpq.nn import MPQLinear
from hf_mpq.nn.packing import pack_matrix
from hf_mpq.weights import MASKS, QUANTIZERS
from tests.weights.cases import CHOOSING, mixed, program_of

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


@pytest.mark.parametrize("mask", CHOOSING)
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


@pytest.mark.parametrize("mask", CHOOSING)
@pytest.mark.parametrize("name", MIXING)
def test_scales_fit_the_kept_weights_only(name, mask):
    weight = torch.randn(9, 12)
    program = program_of(name, LAYOUT, weight, mask=mask, mask_options=OPTIONS[mask])
    other = torch.where(program.mask.keep, weight, 50.0)
    before = {key: value.clone() for key, value in program.state_dict().items()}
    program.calibrate(other)
    assert all(torch.equal(value, before[key]) for key, value in program.state_dict().items())
    assert torch.equal(program(other), program(weight))
    alone = QUANTIZERS[name](LAYOUT, mixed(name))
    for kept, same in ((program.mask.keep, True), (None, not alone.state_dict())):
        alone.calibrate(program.float_weight(weight), kept)
        theirs = program.quantizer.state_dict()
        assert all(torch.equal(value, theirs[key]) == same for key, value in alone.state_dict().items())


@pytest.mark.parametrize("layout", [LAYOUT, SubgroupLayout((9, 12), 5, axis=1)], ids=["rows", "columns"])
@pytest.mark.parametrize("mask", CHOOSING)
@pytest.mark.parametrize("name", MIXING)
def test_packed_twins_store_the_kept_weights(name, mask, layout):
    top = mixed(name)[-1]
    bits = (4, 0, 2, top, 4)[: layout.count]
    spec = WeightSpec(layout, mixed(name), bits, quantizer=name, mask=mask, mask_options=OPTIONS[mask])
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


@pytest.mark.parametrize("name", CHOOSING)
def test_masks_open_close_and_lock(name):
    weight = torch.randn(9, 12)
    mask = MASKS[name](weight.shape, **OPTIONS[name])
    mask.initialise(weight)
    chosen = mask.keep.clone()
    assert mask.pruned_share() == pytest.approx(1)
    shares = []
    for share in (0.0, 0.3, 0.7, 1.0):
        mask.revisit(weight, share)
        shares.append(mask.pruned_share())
    assert shares[0] == 0 and sorted(shares) == shares and torch.equal(mask.keep, chosen)
    mask.locked = True
    with pytest.raises(ValueError, match="locked"):
        mask.revisit(weight)


@pytest.mark.parametrize("name", CHOOSING)
def test_a_mask_is_chosen_anew_from_all_weights_and_not_from_those_it_kept(name):
    program, layer = masked_layer(name)
    held = ~program.mask.keep
    with torch.no_grad():
        layer.weight[held] = 9.0  # what was held at zero is now the largest
    program.revisit_mask(layer.weight)
    assert (program.mask.keep & held).any()
    assert torch.equal(program.float_weight(layer.weight) != 0, program.mask.keep & (layer.weight != 0))


@pytest.mark.parametrize("mask", [None, *CHOOSING])
def test_without_rounding_the_masked_float_weight_is_used(mask):
    program, layer = masked_layer(mask)
    rounded = layer.quantized_weight()
    program.rounding = False
    assert torch.equal(layer.quantized_weight(), layer.float_weight())
    assert torch.equal(program.rows(layer.weight, torch.tensor([3, 1])), layer.float_weight()[[3, 1]])
    program.rounding = True
    assert torch.equal(layer.quantized_weight(), rounded) and not torch.equal(rounded, layer.float_weight())


def masked_layer(name):
    options = {} if name is None else {"mask": name, "mask_options": OPTIONS[name]}
    spec = WeightSpec(LAYOUT, (4,), (4,) * LAYOUT.count, bias=False, **options)
    layer = MPQLinear.from_linear(nn.Linear(12, 9, bias=False), spec)
    layer.initialise()
    layer.calibrate()
    return layer.program, layer


def test_a_locked_mask_keeps_what_is_not_zero_for_good():
    weight = torch.randn(9, 12) * (torch.rand(9, 12) < 0.3)
    program = program_of("symmetric", LAYOUT, weight, mask="locked")
    pattern = weight != 0
    assert torch.equal(program.mask.keep, pattern) and program.mask.pruned_share() == 1
    assert torch.equal(program.float_weight(torch.ones(9, 12)), pattern.float())
    with pytest.raises(ValueError, match="locked"):
        program.revisit_mask(weight)
