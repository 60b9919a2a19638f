"""What every registered weight quantizer promises, on every layout and at every precision."""

import pytest
import torch

from hf_mpq.weights import ENCODINGS, QUANTIZERS, Choice, GridQuantizer, WeightQuantizer
from tests.weights.cases import (
    BITS_OF_EACH,
    LAYOUTS,
    bits_of,
    candidates_of,
    cycled,
    decoded,
    program_of,
    quantizer_of,
    serves_prefixes,
    weight_of,
)

NAMES = list(QUANTIZERS)
MIXING = [name for name in NAMES if not serves_prefixes(name)]
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
every_quantizer = pytest.mark.parametrize("name", NAMES)


@every_layout
@pytest.mark.parametrize(("name", "bits"), BITS_OF_EACH)
def test_codes_decode_to_the_forward_value(name, layout, bits, device):
    weight = weight_of(layout).to(device)
    every = bits_of(name)
    quantizer = QUANTIZERS[name](layout, every).to(device)
    quantizer.calibrate(weight)
    value, codes, floats = decoded(quantizer, weight, bits)
    index = torch.full((layout.count,), every.index(bits), device=device)
    assert torch.equal(value, quantizer.candidate(weight, bits))
    assert torch.equal(value, quantizer(weight, Choice(index=index)))
    assert codes.dtype == torch.uint8 and codes.shape == layout.lines(weight).shape
    assert int(codes.max()) < 2**bits and len(codes.unique()) > 1
    nested = every if serves_prefixes(name) else ()
    stored = nested[-1] if nested else bits
    assert floats.shape == (layout.count, ENCODINGS[quantizer.encoding].floats(stored, nested))
    assert torch.equal(floats, floats.half().float())


@every_layout
@pytest.mark.parametrize("name", MIXING)
def test_mixed_precisions_decode_to_the_forward_value(name, layout):
    weight, candidates = weight_of(layout), candidates_of(name)
    program = program_of(name, layout, weight, candidates=candidates, bits=cycled(layout, candidates))
    encoding, bits = ENCODINGS[program.quantizer.encoding], torch.tensor(program.spec.bits)
    lines = torch.zeros_like(layout.lines(weight))
    for precision, stored in program.encode(weight).items():
        assert precision > 0 and stored.keep is None and int(stored.codes.max()) < 2**precision
        floats = torch.zeros(layout.count, stored.floats.shape[1])
        floats[bits == precision] = stored.floats
        chosen = layout.expand(bits) == precision
        lines[chosen] = encoding.decode(stored.codes, layout.expand(floats)[chosen], precision)
    value = program(weight)
    assert torch.equal(layout.lines(lines), value)
    for part, precision in zip(layout.split(value), program.spec.bits):
        assert bool(part.any()) == (precision > 0)


@every_layout
@every_quantizer
def test_a_subgroup_depends_on_its_own_weights_only(name, layout):
    weight, candidates = weight_of(layout), candidates_of(name)
    alone = layout.count // 2
    changed = layout.merge([part if g == alone else 3 * part - 1 for g, part in enumerate(layout.split(weight))])
    for bits in (b for b in candidates if b > 0):
        first, second = (quantizer_of(name, layout, candidates, w).candidate(w, bits) for w in (weight, changed))
        for group, (a, b) in enumerate(zip(layout.split(first), layout.split(second))):
            assert torch.equal(a, b) == (group == alone)


@every_layout
@every_quantizer
def test_gradients_reach_the_weight_and_what_is_learned(name, layout):
    weight = weight_of(layout).requires_grad_()
    candidates = candidates_of(name)
    quantizer = quantizer_of(name, layout, candidates, weight.detach())
    probabilities = torch.softmax(torch.randn(layout.count, len(candidates)), dim=1).requires_grad_()
    upstream = torch.randn(layout.shape)
    quantizer(weight, Choice(probabilities=probabilities)).backward(upstream)
    kept = torch.tensor(candidates) > 0
    assert (weight.grad != 0).float().mean() > 0.5
    assert probabilities.grad[:, kept].ne(0).all() and not probabilities.grad[:, ~kept].any()
    for parameter in quantizer.parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.ne(0).float().mean() > 0.9


@every_layout
@pytest.mark.parametrize("name", MIXING)
def test_pruned_subgroups_get_no_gradient(name, layout):
    weight = weight_of(layout)
    program = program_of(name, layout, weight, bits=cycled(layout, (0, 4)))
    weight.requires_grad_()
    program(weight).backward(torch.ones(layout.shape))
    for part, precision in zip(layout.split(weight.grad), program.spec.bits):
        assert bool(part.any()) == (precision > 0)
    for parameter in program.quantizer.parameters():
        assert not parameter.grad[torch.tensor(program.spec.bits) == 0].any()


@every_layout
@every_quantizer
def test_select_takes_each_subgroup_from_its_candidate(name, layout):
    weight, candidates = weight_of(layout), candidates_of(name)
    quantizer = quantizer_of(name, layout, candidates, weight)
    index = torch.arange(layout.count) % len(candidates)
    value = layout.split(quantizer(weight, Choice(index=index)))
    tables = [torch.zeros_like(weight) if b == 0 else quantizer.candidate(weight, b) for b in candidates]
    for group, k in enumerate(index.tolist()):
        assert torch.equal(value[group], layout.split(tables[k])[group])


def gradients(function, quantizer, weight, probabilities):
    quantizer.zero_grad()
    weight, probabilities = weight.clone().requires_grad_(), probabilities.clone().requires_grad_()
    value = function(weight, probabilities)
    value.backward(torch.linspace(-1, 1, value.numel()).view_as(value))
    return [value.detach(), weight.grad, probabilities.grad, *(p.grad.clone() for p in quantizer.parameters())]


@every_layout
@pytest.mark.parametrize("name", [name for name in NAMES if issubclass(QUANTIZERS[name], GridQuantizer)])
def test_the_fused_operation_equals_the_generic_one(name, layout):
    weight, candidates = weight_of(layout), candidates_of(name)
    quantizer = quantizer_of(name, layout, candidates, weight)
    probabilities = torch.softmax(torch.randn(layout.count, len(candidates)), dim=1)
    fused = gradients(lambda w, p: quantizer(w, Choice(probabilities=p)), quantizer, weight, probabilities)
    plain = gradients(lambda w, p: WeightQuantizer.mix(quantizer, w, p), quantizer, weight, probabilities)
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    index = torch.arange(layout.count) % len(candidates)
    assert torch.equal(quantizer(weight, Choice(index=index)), WeightQuantizer.select(quantizer, weight, index))


@every_layout
@pytest.mark.parametrize("name", [name for name in NAMES if issubclass(QUANTIZERS[name], GridQuantizer)])
def test_some_rows_are_those_of_the_whole(name, layout):
    weight, candidates = weight_of(layout), candidates_of(name)
    quantizer, rows = quantizer_of(name, layout, candidates, weight), torch.tensor([5, 0, 3])
    for choice in (
        Choice(index=torch.arange(layout.count) % len(candidates)),
        Choice(probabilities=torch.softmax(torch.randn(layout.count, len(candidates)), dim=1)),
    ):
        assert torch.equal(quantizer.rows(weight, choice, rows), quantizer(weight, choice)[rows])


@every_layout
@every_quantizer
def test_calibration_leaves_dead_columns_out_of_account(name, layout):
    weight, candidates = weight_of(layout), candidates_of(name)
    live = torch.arange(layout.shape[1]) % 3 != 0
    other = torch.where(live, weight, torch.full_like(weight, 100.0))
    states = []
    for value, mask in ((weight, live), (other, live), (other, live.expand(layout.shape)), (other, None)):
        quantizer = QUANTIZERS[name](layout, candidates)
        quantizer.calibrate(value, None if mask is None else mask.view(-1, layout.shape[1]))
        states.append(quantizer.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]) and torch.equal(value, states[2][key])
        assert not torch.equal(value, states[3][key])


@every_layout
@pytest.mark.parametrize(("name", "bits"), BITS_OF_EACH)
def test_decoded_weights_encode_to_the_same_codes(name, layout, bits):
    weight, candidates = weight_of(layout), bits_of(name)[:bits] if serves_prefixes(name) else bits_of(name)
    value, codes, floats = decoded(quantizer_of(name, layout, candidates, weight), weight, bits)
    again = QUANTIZERS[name](layout, candidates)
    again.restore(bits, torch.arange(layout.count), floats)
    second, same_codes, same_floats = decoded(again, value, bits)
    assert torch.equal(codes, same_codes)
    torch.testing.assert_close(same_floats, floats, rtol=1e-3, atol=0)
    torch.testing.assert_close(second, value, rtol=1e-3, atol=1e-6)


@every_quantizer
def test_restore_touches_the_chosen_subgroups_only(name):
    layout = LAYOUTS["uneven rows"]
    weight, candidates = weight_of(layout), candidates_of(name)
    before, after = (quantizer_of(name, layout, candidates, weight) for _ in range(2))
    top, chosen = candidates[-1], torch.tensor([2, 0])
    after.restore(top, chosen, decoded(before, 2 * weight, top)[2][chosen] * 2)
    for bits in (b for b in candidates if b > 0):
        first, second = (layout.split(q.candidate(weight, bits)) for q in (before, after))
        assert all(torch.equal(first[g], second[g]) for g in (1, 3))
