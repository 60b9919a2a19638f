"""A gate that keeps sub-groups from the first one on: what it mixes, opens, draws and derives."""

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool1d, gelu

from hf_mpq.core import SubgroupLayout
from hf_mpq.weights import GATES, QUANTIZERS

LAYOUT = SubgroupLayout((24, 10), 12)


def gate_of(layout=LAYOUT, **options):
    gate = GATES["width"](layout.count, (0, 2), **options)
    gate.decide_for(QUANTIZERS["symmetric"](layout, (0, 2)))
    with torch.no_grad():
        gate.logits.copy_(torch.randn(gate.logits.shape, generator=torch.Generator().manual_seed(3)))
    return gate


def shares(gate):
    values = gate.logits[0].masked_fill(~gate.open, -torch.inf) / gate.temperature
    return values.softmax(0).tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_a_mixture_of_widths_is_one_matrix_with_soft_columns(temperature):
    """In float64, gradients of all logits included."""
    gate = gate_of(temperature=temperature).double()
    torch.manual_seed(0)
    up, down, x = (torch.randn(shape, dtype=torch.float64) for shape in ((24, 10), (5, 24), (7, 10)))
    hidden = gelu(x @ up.T)
    ends = [2 * size for size in gate.sizes]
    mixed = (gate.logits[0] / gate.temperature).softmax(0)
    whole = sum(share * gelu(x @ up[:end].T) @ down[:, :end].T for share, end in zip(mixed, ends))
    soft = gate.pass_on(hidden, LAYOUT) @ down.T
    torch.testing.assert_close(soft, whole, atol=1e-12, rtol=1e-12)
    grads = [torch.autograd.grad(value.sin().sum(), gate.logits)[0] for value in (soft, whole)]
    torch.testing.assert_close(*grads, atol=1e-12, rtol=1e-10)
    assert grads[0].ne(0).all()


def test_it_uses_every_row_at_the_one_precision_and_expects_what_readers_get():
    gate = gate_of(temperature=0.5)
    choice, usage = gate(), gate.usage()
    assert choice.index.tolist() == [1] * 12 and choice.probabilities is None
    expected = [sum(p for p, size in zip(shares(gate), gate.sizes) if size > place) for place in range(12)]
    torch.testing.assert_close(usage.keep, torch.tensor(expected))
    torch.testing.assert_close(usage.bits, 2 * usage.keep)
    torch.testing.assert_close(gate.kept(), usage.keep)
    assert (usage.keep.diff() <= 0).all() and usage.prefix and usage.probabilities is None
    assert torch.equal(usage.likeliest, gate.derive())
    torch.testing.assert_close(gate.shares(), torch.stack([1 - usage.keep, usage.keep], 1))
    assert gate.uncertainty().shape == (12,) and 0 <= gate.uncertainty()[0] < 1


def test_what_it_derives_is_the_likeliest_width_and_what_it_wants_most():
    for seed in range(10):
        gate = gate_of()
        with torch.no_grad():
            gate.logits.copy_(torch.randn(gate.logits.shape, generator=torch.Generator().manual_seed(seed)))
        size = gate.sizes[int(gate.logits.argmax())]
        assert gate.derive().tolist() == [2] * size + [0] * (12 - size)
        reluctance = gate.reluctance()
        assert reluctance.isfinite().all() and (reluctance >= 0).all() and reluctance.dtype == torch.float64
        assert torch.equal(torch.tensor([0, 2])[reluctance.argmin(1)], gate.derive())
        dropping = reluctance[:size, 0]
        assert (dropping.diff() < 0).all(), "the last ones are given up first"
        likeliest = min(gate.prefixes(), key=lambda one: one[1])
        assert torch.equal(likeliest[0], gate.derive())
        chances = torch.tensor([-one[1] for one in gate.prefixes()]).exp()
        torch.testing.assert_close(chances.sum(), torch.ones(()))


def test_shards_are_cut_alike():
    layout = SubgroupLayout((48, 10), 12, shards=2)
    gate = gate_of(layout)
    assert gate.groups == 24 and gate.sizes[-1] == 12
    one, two = gate.usage().keep.chunk(2)
    assert torch.equal(one, two)
    hidden = torch.randn(3, 24)
    torch.testing.assert_close(gate.pass_on(hidden, layout), hidden * one.repeat_interleave(2))


def test_few_sub_groups_leave_equal_widths_out():
    layout = SubgroupLayout((24, 10), 4)
    gate = gate_of(layout)
    assert gate.sizes == (1, 2, 2, 2, 3, 3, 3, 4, 4) and gate.open.tolist() == [1, 1, 0, 0, 1, 0, 0, 1, 0]
    assert len(gate.prefixes()) == 4
    gate.close_above(2)
    while gate.expand(1e-9):
        pass
    assert gate.open.tolist() == [1, 1, 0, 0, 1, 0, 0, 1, 0]


def test_a_wider_one_opens_above_the_threshold_alone_and_changes_nothing_before_it():
    gate = gate_of(temperature=0.7)
    gate.close_above(8)
    assert gate.open.tolist() == [True] * 5 + [False] * 4
    with torch.no_grad():
        gate.logits.zero_()
        gate.logits[0, 4] = 0.4
    preferred = gate.logits.detach()[0, :5].softmax(0)[4].item()
    before = gate.kept()
    assert not gate.expand(5 * preferred * 1.001) and torch.equal(gate.kept(), before)
    assert gate.expand(5 * preferred * 0.999)
    assert gate.open.tolist() == [True] * 6 + [False] * 3
    torch.testing.assert_close(gate.kept()[:8], before[:8])
    torch.testing.assert_close(gate.kept()[8], before[7] / 2)
    assert not gate.kept()[9:].any()
    assert not gate.expand(1.5), "the new one has to be wanted first"


def test_nothing_opens_beyond_the_widest_and_one_width_alone_opens_the_next():
    gate = gate_of()
    assert not gate.expand(1e-9)
    gate.close_above(1)
    assert gate.open.sum() == 1 and gate.expand(1.5) and gate.open.sum() == 2


def test_what_is_open_is_saved_and_forgotten_by_initialise():
    gate, other = gate_of(), gate_of()
    gate.close_above(8)
    other.load_state_dict(gate.state_dict())
    assert torch.equal(other.open, gate.open) and torch.equal(other.kept(), gate.kept())
    other.initialise(None)
    assert other.open.all() and not other.logits.any()


def test_two_drawn_widths_are_mixed_in_training_alone():
    gate = gate_of(drawn=2, temperature=0.5)
    gate.close_above(8)
    gate.eval()
    even = gate.kept()
    gate.train()
    assert torch.equal(gate.kept(), even), "before the first draw"
    seen = set()
    for seed in range(60):
        gate.redraw(torch.Generator().manual_seed(seed))
        noise, index = gate._drawn
        assert gate.open[index].all() and len(set(index.tolist())) == 2
        noisy = (gate.logits[0].masked_fill(~gate.open, -torch.inf).log_softmax(0) + noise)[index] / 0.5
        weights = dict(zip(index.tolist(), noisy.softmax(0).tolist()))
        expected = [sum(w for j, w in weights.items() if gate.sizes[j] > place) for place in range(12)]
        torch.testing.assert_close(gate.kept(), torch.tensor(expected))
        seen.add(tuple(sorted(index.tolist())))
    assert len(seen) == 10, "all pairs of five"
    assert torch.equal(gate.eval().kept(), even)
    torch.testing.assert_close(gate.usage().keep[:1], torch.ones(1))
    gate.kept()[5].backward()
    assert gate.logits.grad[0, :5].ne(0).all() and not gate.logits.grad[0, 5:].any()


def test_interpolation_brings_every_width_to_that_of_the_widest():
    gate = gate_of(mixing="interpolation")
    gate.close_above(8)
    hidden = torch.randn(3, 4, 24)
    widest, expected = 16, torch.zeros(3, 4, 16)
    for share, size in zip(shares(gate), gate.sizes):
        expected += share * adaptive_avg_pool1d(hidden[..., : 2 * size].flatten(0, 1), widest).view(3, 4, widest)
    found = gate.pass_on(hidden, LAYOUT)
    torch.testing.assert_close(found[..., :16], expected)
    assert not found[..., 16:].any()
    with torch.no_grad():  # one width alone is what it is
        gate.logits[0, 4] = 200
    torch.testing.assert_close(gate.pass_on(hidden, LAYOUT)[..., :16], hidden[..., :16])


def test_a_path_is_what_readers_get_until_the_gate_chooses_again():
    gate = gate_of(mixing="interpolation")
    before = gate.kept()
    path = (torch.arange(12) < 5).long()
    gate.take(path)
    assert torch.equal(gate().index, path) and torch.equal(gate.kept(), path.float())
    hidden = torch.randn(2, 24)
    assert torch.equal(gate.pass_on(hidden, LAYOUT), hidden * path.repeat_interleave(2))
    gate.take(None)
    assert torch.equal(gate.kept(), before)


def test_drawn_paths_are_open_widths():
    gate = gate_of()
    gate.close_above(8)
    drawn = {int(gate.random_path(torch.Generator().manual_seed(seed)).sum()) for seed in range(60)}
    assert drawn == {4, 5, 6, 7, 8}
    assert gate.highest_path().tolist() == [1] * 8 + [0] * 4
    path = gate.random_path(torch.Generator().manual_seed(0))
    assert path.sum() == path.argmin() or path.all()


def test_it_starts_from_the_mean_preference_of_what_a_width_makes_of_sub_groups():
    gate = gate_of()
    gate.start(torch.tensor([[0.0, 1.0]]).repeat(12, 1))
    torch.testing.assert_close(gate.logits[0], torch.tensor(gate.sizes) / 12)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"least": 13}, "least is 1 to steps"),
        ({"least": 0}, "least is 1 to steps"),
        ({"drawn": 1}, "drawn 0 or at least 2"),
        ({"mixing": "mean"}, "'columns' or 'interpolation'"),
        ({"temperature": 0.0}, "above zero"),
    ],
)
def test_impossible_options(options, words):
    with pytest.raises(ValueError, match=words):
        gate_of(**options)


@pytest.mark.parametrize("candidates", [(2, 4), (0, 2, 4), (2,)])
def test_it_needs_one_precision_beside_0(candidates):
    gate = GATES["width"](LAYOUT.count, candidates)
    with pytest.raises(ValueError, match=r"such as bits=\(0, 2\)"):
        gate.decide_for(QUANTIZERS["symmetric"](LAYOUT, candidates))


def test_it_needs_rows():
    layout = SubgroupLayout((8, 24), 12, axis=1)
    with pytest.raises(ValueError, match="groups must cut rows"):
        GATES["width"](12, (0, 2)).decide_for(QUANTIZERS["symmetric"](layout, (0, 2)))
