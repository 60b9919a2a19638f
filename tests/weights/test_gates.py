"""Gates: what they yield, what they say they use, and what they derive."""

import pytest
import torch

from hf_mpq.weights import GATES

CANDIDATES = (0, 2, 4)
ALONE = [name for name in GATES if not GATES[name].sets_width]
"""Gates that decide each sub-group for itself; of the others see `test_width_gate.py`."""
SEARCHING = ["gumbel", "softmax"]
TEMPERED = [*SEARCHING, "neighbour"]


def gate_of(name, groups=5, candidates=CANDIDATES, **options):
    """A gate with random preferences where it has any."""
    gate = GATES[name](groups, candidates, **options)
    gate.initialise(None)
    if any(True for _ in gate.parameters()):
        gate.start(torch.randn(groups, len(candidates)))
    return gate


@pytest.mark.parametrize("name", ALONE)
def test_a_gate_yields_an_index_or_probabilities_or_levels(name):
    gate = gate_of(name)
    choice, usage = gate(), gate.usage()
    kinds = (choice.index, choice.probabilities, choice.levels, choice.planes)
    assert sum(one is not None for one in kinds) == 1 and choice.passes == gate.selects_planes
    assert (choice.index is None) == (gate.searching and not gate.limited)
    assert usage.bits.shape == usage.keep.shape == (5,)
    derived = gate.derive()
    if usage.probabilities is None:
        assert torch.equal(usage.likeliest, derived) and ((usage.keep >= 0) & (usage.keep <= 1)).all()
    else:
        assert usage.probabilities.shape == (5, 3)
        torch.testing.assert_close(usage.probabilities.sum(1), torch.ones(5))
        torch.testing.assert_close(usage.bits, usage.probabilities @ torch.tensor([0.0, 2.0, 4.0]))
        torch.testing.assert_close(usage.keep, 1 - usage.probabilities[:, 0])
    assert gate.uncertainty().shape == (5,) and ((gate.uncertainty() >= 0) & (gate.uncertainty() < 1)).all()
    assert derived.dtype == torch.int64 and derived.shape == (5,) and set(derived.tolist()) <= set(CANDIDATES)


@pytest.mark.parametrize("name", ALONE)
def test_without_a_zero_everything_is_kept(name):
    torch.testing.assert_close(gate_of(name, candidates=(2, 8)).usage().keep, torch.ones(5))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", TEMPERED)
def test_probabilities_sum_to_one(name, training):
    probabilities = gate_of(name).train(training)().probabilities
    assert (probabilities >= 0).all() and probabilities.shape == (5, 3)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", TEMPERED)
def test_a_vanishing_temperature_gives_one_hot(name, training):
    gate = gate_of(name).train(training)
    gate.set_temperature(1e-4)
    probabilities = gate().probabilities
    assert probabilities.isfinite().all()
    torch.testing.assert_close(probabilities.amax(1), torch.ones(5))
    if not training:
        assert torch.equal(torch.tensor(CANDIDATES)[probabilities.argmax(1)], gate.derive())


@pytest.mark.parametrize("name", SEARCHING)
def test_without_noise_the_mixture_is_a_softmax_over_the_temperature(name):
    gate = gate_of(name, temperature=0.3).eval()
    torch.testing.assert_close(gate().probabilities, torch.softmax(gate.logits / 0.3, 1))


def test_the_use_of_a_softmax_gate_is_what_it_mixes():
    gate = gate_of("softmax", temperature=0.3)
    torch.testing.assert_close(gate.usage().probabilities, gate().probabilities)


def test_the_use_of_a_gumbel_gate_does_not_depend_on_the_temperature():
    gate = gate_of("gumbel", temperature=0.3)
    torch.testing.assert_close(gate.usage().probabilities, torch.softmax(gate.logits, 1))


@pytest.mark.parametrize("name", SEARCHING)
def test_gradients_reach_the_logits_from_the_mixture_and_from_the_usage(name):
    gate = gate_of(name).train()
    for value in (gate().probabilities[:, 1].sum(), gate.usage().bits.sum(), gate.usage().keep.sum()):
        gate.zero_grad()
        value.backward()
        assert gate.logits.grad.ne(0).all()


def test_noise_is_drawn_in_training_only_and_follows_the_seed():
    gate = gate_of("gumbel").eval()
    assert torch.equal(gate().probabilities, gate().probabilities)
    gate.train()
    torch.manual_seed(3)
    first, second = gate().probabilities, gate().probabilities
    torch.manual_seed(3)
    assert torch.equal(gate().probabilities, first) and not torch.equal(first, second)


@pytest.mark.parametrize("temperature", [0.01, 100.0])
def test_noise_has_the_distribution_of_gumbel(temperature):
    gate = gate_of("gumbel", groups=40_000, temperature=temperature).train()
    with torch.no_grad():
        gate.logits.copy_(torch.tensor([0.5, -1.0, 0.1]).expand(40_000, -1))
    probabilities = gate().probabilities
    if temperature < 1:  # then the mean is how often each candidate wins
        torch.testing.assert_close(probabilities.mean(0), torch.softmax(gate.logits[0], 0), atol=0.01, rtol=0)
    else:  # then the mixture is nearly linear in the noise, whose variance is pi^2 / 6
        noise = (probabilities.log() - probabilities.log().mean(1, keepdim=True)) * temperature
        expected = gate.logits[0] - gate.logits[0].mean()
        torch.testing.assert_close(noise.mean(0), expected, atol=0.03, rtol=0)
        torch.testing.assert_close(noise.var(0), torch.full((3,), torch.pi**2 / 9), atol=0.05, rtol=0)


@pytest.mark.parametrize("name", SEARCHING)
def test_initialise_starts_even_at_the_first_temperature(name):
    gate = gate_of(name, temperature=2.0)
    gate.set_temperature(0.5)
    gate.initialise(None)
    assert not gate.logits.any() and gate.temperature == 2
    torch.testing.assert_close(gate.usage().bits, torch.full((5,), 2.0))


@pytest.mark.parametrize("name", TEMPERED)
def test_the_temperature_is_saved(name):
    gate, other = gate_of(name), gate_of(name)
    gate.set_temperature(0.25)
    other.load_state_dict(gate.state_dict())
    assert other.temperature == 0.25 and torch.equal(other.derive(), gate.derive())


@pytest.mark.parametrize("temperature", [0.0, -1.0])
@pytest.mark.parametrize("name", TEMPERED)
def test_the_temperature_must_be_above_zero(name, temperature):
    with pytest.raises(ValueError, match="above zero"):
        GATES[name](2, CANDIDATES, temperature=temperature)


@pytest.mark.parametrize("name", SEARCHING)
def test_derive_takes_the_likeliest_candidate(name):
    gate = gate_of(name, groups=3)
    with torch.no_grad():
        gate.logits.copy_(torch.tensor([[2.0, 1, 0], [0, 1, 2], [0, 2, 1]]))
    assert gate.derive().tolist() == [0, 4, 2]


def test_a_fixed_gate_yields_the_given_bits():
    gate = GATES["fixed"](4, CANDIDATES)
    gate.initialise((4, 0, 2, 4))
    assert gate.derive().tolist() == [4, 0, 2, 4] and gate().index.tolist() == [2, 0, 1, 2]
    assert gate.usage().bits.tolist() == [4, 0, 2, 4] and gate.usage().keep.tolist() == [1, 0, 1, 1]
    assert not gate.searching
    gate.initialise(None)
    assert gate.derive().tolist() == [4] * 4


def test_fixed_bits_must_be_candidates():
    gate = GATES["fixed"](2, CANDIDATES)
    with pytest.raises(ValueError, match=r"bits \[3, 8\] are not among the candidates \(0, 2, 4\)"):
        gate.initialise((3, 8))


def test_fixed_bits_are_saved():
    gate, other = GATES["fixed"](3, CANDIDATES), GATES["fixed"](3, CANDIDATES)
    gate.initialise((0, 2, 4))
    other.load_state_dict(gate.state_dict())
    assert other.derive().tolist() == [0, 2, 4]


def test_a_switch_moves_every_subgroup_and_stores_the_highest():
    gate = GATES["switch"](3, (2, 4, 8))
    assert gate().index.tolist() == [2, 2, 2]
    gate.set_precision(4)
    assert gate().index.tolist() == [1, 1, 1]
    assert gate.derive().tolist() == [8, 8, 8] and gate.usage().bits.tolist() == [8, 8, 8]
    gate.initialise(None)
    assert gate().index.tolist() == [2, 2, 2]


def test_a_switch_refuses_what_it_does_not_serve():
    with pytest.raises(ValueError, match="not among the nested precisions"):
        GATES["switch"](3, (2, 4, 8)).set_precision(3)


@pytest.mark.parametrize("name", ALONE)
def test_what_a_gate_derives_is_what_it_wants_most(name):
    gate = gate_of(name)
    reluctance = gate.reluctance()
    assert reluctance.shape == (5, 3) and reluctance.dtype == torch.float64 and reluctance.device.type == "cpu"
    assert reluctance.isfinite().all() and (reluctance >= 0).all()
    assert torch.equal(torch.tensor(CANDIDATES)[reluctance.argmin(1)], gate.derive())
    torch.testing.assert_close(gate.shares().sum(1), torch.ones(5))
    assert gate.shares().shape == (5, 3)
    assert all(isinstance(value, float) for value in gate.metrics().values())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ALONE)
def test_a_path_is_taken_until_the_gate_chooses_again(name, training):
    gate = gate_of(name).train(training)
    before, derived, saved = gate.usage().bits, gate.derive(), set(gate.state_dict())
    for position in range(3):
        path = torch.full((5,), position)
        gate.take(path)
        assert gate().probabilities is None and torch.equal(gate().index, path)
        assert (gate().window is not None) == gate.selects_planes
    torch.testing.assert_close(gate.usage().bits, before)
    assert torch.equal(gate.derive(), derived) and set(gate.state_dict()) == saved
    gate.take(None)
    assert (gate().index is None) == (gate.searching and not gate.limited)


@pytest.mark.parametrize("path", [torch.zeros(4), torch.tensor([0, 1, 2, 3, 0]), torch.tensor([0, -1, 0, 0, 0])])
def test_a_path_that_does_not_fit_is_refused(path):
    with pytest.raises(ValueError, match=r"a position in \(0, 2, 4\) for each of 5 sub-groups"):
        gate_of("softmax").take(path)


@pytest.mark.parametrize("name", ALONE)
def test_gates_start_from_preferences_or_say_that_they_do_not(name):
    gate, preferences = gate_of(name), torch.tensor([[3.0, 0, 1], [0, 3, 1], [0, 1, 3], [1, 3, 0], [3, 1, 0]])
    if not gate.searching or gate.limited:
        with pytest.raises(ValueError, match="cannot start from preferences"):
            gate.start(preferences)
        return
    gate.start(preferences)
    assert gate.derive().tolist() == [0, 2, 4, 2, 0]


SETS = torch.tensor(
    [[True, True, True], [False, True, True], [False, False, True], [True, False, True], [False, True, False]]
)


@pytest.mark.parametrize("name", ALONE)
def test_paths_are_drawn_evenly_from_what_is_allowed(name):
    gate = gate_of(name)
    if gate.limited:
        gate.allow(SETS)
    else:
        with pytest.raises(ValueError, match=f"{type(gate).__name__} always has all candidates; choose gate='sampled'"):
            gate.allow(SETS)
    allowed = SETS if gate.limited else torch.ones(5, 3, dtype=torch.bool)
    assert torch.equal(gate.allowed, allowed)
    assert gate.highest_path().tolist() == ([2, 2, 2, 2, 1] if gate.limited else [2] * 5)
    drawn = torch.stack([gate.random_path(torch.Generator().manual_seed(seed)) for seed in range(600)])
    counts = torch.nn.functional.one_hot(drawn, 3).sum(0)
    assert torch.equal(counts > 0, allowed)
    expected = allowed / allowed.sum(1, keepdim=True)
    torch.testing.assert_close(counts / 600, expected, atol=0.08, rtol=0)
    assert torch.equal(drawn[7], gate.random_path(torch.Generator().manual_seed(7)))


def test_a_sampled_gate_left_alone_has_the_highest_precisions_that_are_allowed():
    gate, other = gate_of("sampled"), gate_of("sampled")
    gate.allow(SETS)
    assert gate().index.tolist() == [2, 2, 2, 2, 1] and gate.derive().tolist() == [4, 4, 4, 4, 2]
    torch.testing.assert_close(gate.usage().bits, torch.tensor([2.0, 3.0, 4.0, 2.0, 2.0]))
    assert (gate.reluctance()[~SETS] > 60).all() and (gate.reluctance()[SETS] < 3).all()
    other.load_state_dict(gate.state_dict())
    assert torch.equal(other.allowed, SETS)
    other.initialise(None)
    assert other.allowed.all()


@pytest.mark.parametrize("wrong", [SETS[:4], torch.zeros(5, 3, dtype=torch.bool)])
def test_sets_that_leave_nothing_or_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match=r"some of the candidates \(0, 2, 4\): give \(5, 3\) booleans"):
        gate_of("sampled").allow(wrong)
