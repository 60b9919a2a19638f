"""Penalties: their branches, their values by hand, and their gradients through the expected cost."""

from dataclasses import replace
from math import log

import pytest
import torch

from hf_mpq.core import PrecisionSpace, SubgroupLayout, Usage, WeightSpec
from hf_mpq.cost import AverageBits
from hf_mpq.search.strategies import PENALTIES, STRATEGIES, Progress, likeliest
from hf_mpq.search.strategies.penalties import Target
from hf_mpq.search.strategies.seeding import seeded

TARGET = Target(limit=100.0, largest=400.0, groups=50, learning_rate=0.1)
MIDDLE = Progress(50, 200, 10, 2)


def value(name, expected, actual=None, progress=MIDDLE, target=TARGET, **options):
    penalty = PENALTIES[name](target, **options)
    return penalty(torch.as_tensor(expected), lambda: float(expected if actual is None else actual), progress)


def slope(name, expected, actual=None, **options):
    expected = torch.tensor(float(expected), requires_grad=True)
    value(name, expected, expected.item() if actual is None else actual, **options).backward()
    return float(expected.grad)


def test_the_registry_names_every_penalty():
    assert list(PENALTIES) == ["geometric", "hinge", "linear", "log-band", "relative", "signed-excess", "squared"]
    assert all(PENALTIES[name].name == name for name in PENALTIES)


@pytest.mark.parametrize("actual, sign", [(106, 1), (105, 0), (95, 0), (94, -1)])
def test_the_log_band_is_gated_by_the_actual_cost(actual, sign):
    """The expected cost is the same everywhere: only the actual one says which way the gates are pulled."""
    options = {"strength": 2.0, "tolerance": 0.05}
    assert value("log-band", 120.0, actual, **options) == pytest.approx(sign * 2 * log(1.2))
    assert slope("log-band", 120.0, actual, **options) == pytest.approx(sign * 2 / 120)


@pytest.mark.parametrize("actual, excess", [(110, 0.1), (100, 0.0), (90, -0.1)])
def test_the_signed_excess_grows_what_is_below_the_budget(actual, excess):
    """Whatever is expected: what would be decided now says which way, and how much."""
    assert value("signed-excess", 120.0, actual, strength=2.0) == pytest.approx(2 * excess * 1.2)
    assert slope("signed-excess", 120.0, actual, strength=2.0) == pytest.approx(2 * excess / 100)
    assert slope("signed-excess", 101.0, 101) == pytest.approx(slope("relative", 101.0, 101), rel=1e-6)


def test_the_default_strength_of_the_log_band_moves_a_logit_over_the_search():
    """SGD of all gate steps on the gradient of an average sub-group, `lambda / (3 groups)`, makes REACH."""
    strength = slope("log-band", 120.0) * 120
    gate_steps = MIDDLE.steps * MIDDLE.search_steps / MIDDLE.steps_per_epoch
    assert strength * 0.1 * gate_steps / (3 * 50) == pytest.approx(PENALTIES["log-band"].REACH)


def test_the_relative_excess_by_hand():
    assert value("relative", 90.0) == 0 and slope("relative", 90.0) == 0
    assert value("relative", 110.0, strength=3.0) == pytest.approx(3 * 0.01, rel=1e-5)
    assert value("relative", 110.0) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("step, ramp", [(0, 0.01), (50, 0.505), (100, 1.0), (150, 1.0)])
def test_the_hinge_is_ramped_over_the_first_half(step, ramp):
    progress = replace(MIDDLE, step=step)
    assert value("hinge", 150.0, progress=progress, strength=4.0) == pytest.approx(4 * ramp * 0.5)
    assert value("hinge", 99.0, progress=progress) == 0
    assert value("squared", 150.0, progress=progress, strength=4.0) == pytest.approx(4 * ramp * 0.25)
    assert value("squared", 99.0, progress=progress) == 0


def test_the_squared_hinge_is_the_papers_in_kilobytes():
    """1e-4 times the square of what is above a budget of 2,000 kB, at the end of the ramp."""
    target = replace(TARGET, limit=2e6)
    assert value("squared", 2.1e6, progress=replace(MIDDLE, step=150), target=target) == pytest.approx(
        1e-4 * 100**2, rel=1e-4
    )


@pytest.mark.parametrize("actual, sign", [(106, 1), (94, 0)])
def test_beside_other_limits_the_log_band_pulls_nothing_up(actual, sign):
    found = value("log-band", 120.0, actual, target=replace(TARGET, alone=False), strength=2.0, tolerance=0.05)
    assert found == pytest.approx(sign * 2 * log(1.2))


@pytest.mark.parametrize("step, price", [(0, 0.01), (50, 0.1), (100, 1.0), (200, 100.0)])
def test_the_geometric_price_grows_by_one_factor(step, price):
    progress = replace(MIDDLE, step=step)
    assert value("geometric", 150.0, progress=progress, strength=4.0) == pytest.approx(4 * price * 0.5)
    assert value("geometric", 99.0, progress=progress) == 0


def test_the_linear_penalty_needs_no_target():
    target = replace(TARGET, limit=None)
    assert value("linear", 200.0, target=target, strength=3.0) == pytest.approx(1.5)
    assert slope("linear", 10.0, target=target) == pytest.approx(1 / 400)


@pytest.mark.parametrize("name", [name for name in PENALTIES if name != "linear"])
def test_other_penalties_need_a_limit(name):
    with pytest.raises(ValueError, match=f"{name}.* needs a budget"):
        PENALTIES[name](replace(TARGET, limit=None))


@pytest.mark.parametrize("name", list(PENALTIES))
def test_a_negative_strength_is_refused(name):
    with pytest.raises(ValueError, match="below zero"):
        PENALTIES[name](TARGET, strength=-1.0)


@pytest.mark.parametrize("limit", [0.5, 1.4, 3.0])
@pytest.mark.parametrize("name", list(PENALTIES))
def test_gradients_reach_the_logits_as_finite_differences_say(make_space, name, limit):
    space = make_space(groups=4, candidates=(0, 2, 4))
    logits = {key: torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for key in space.weights}
    strategy = STRATEGIES["joint"](
        space, [(AverageBits(space), limit)], penalty=name, penalty_options={"strength": 2.0}
    )

    def penalty(*parts):
        probabilities = {key: torch.softmax(part, 1) for key, part in zip(logits, parts)}
        bits = torch.tensor([0.0, 2.0, 4.0], dtype=torch.float64)
        usages = {key: Usage(p @ bits, 1 - p[:, 0], p) for key, p in probabilities.items()}
        return strategy.penalty(usages, Progress(7, 20, 10, 2))

    assert torch.autograd.gradcheck(penalty, tuple(logits.values()), eps=1e-6, atol=1e-7)
    if limit == 0.5 or name == "linear":
        (gradient,) = torch.autograd.grad(penalty(*logits.values()), [logits["beside"]])
        assert gradient.abs().max() > 1e-4


def test_the_actual_cost_is_that_of_the_likeliest_precisions(make_space):
    space = make_space(groups=4, candidates=(0, 2, 4))
    cost = AverageBits(space)
    strategy = STRATEGIES["bilevel"](space, [(cost, 2.0)])
    shares = torch.tensor([[0.2, 0.5, 0.3], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5], [0.5, 0.3, 0.2]])
    usage = Usage(shares @ torch.tensor([0.0, 2.0, 4.0]), 1 - shares[:, 0], shares)
    usages = dict.fromkeys(space.weights, usage)
    shipped = cost.of(likeliest(space, {name: -one.probabilities.log() for name, one in usages.items()}))
    assert strategy._decided_cost(strategy.limits[0], usages) == pytest.approx(shipped)
    assert float(cost.expected(usages)) != pytest.approx(shipped)


@pytest.mark.parametrize("limit", [1.0, 2.4, 3.0])
def test_under_adam_the_log_band_meets_the_budget_and_what_matters_keeps_more_bits(limit):
    """Sub-groups whose errors fall with the bits as 4^-b, times an importance of each; Gumbel noise in every step."""
    candidates, groups, steps = (0, 2, 4), 64, 200
    spec = WeightSpec(SubgroupLayout((groups, 64), groups), candidates=candidates, gate="gumbel")
    space = PrecisionSpace({"only": spec})
    strategy = STRATEGIES["bilevel"](space, [(AverageBits(space), limit)], warmup_epochs=0, optimizer="adam")
    logits, bits = torch.zeros(groups, 3, requires_grad=True), torch.tensor(candidates, dtype=torch.float32)
    optimizer = torch.optim.Adam([logits], **strategy.gate_optimizer()[1])
    importance = torch.randn(groups, 1, generator=seeded(1)).mul(1.5).exp()
    errors = importance / importance.mean() * 4.0**-bits
    for step in range(steps):
        progress = Progress(step, steps, steps, steps)
        mixture = (
            (logits - torch.empty(groups, 3).exponential_(generator=seeded(0, step)).log())
            / strategy.temperature_at(progress)
        ).softmax(1)
        shares = logits.softmax(1)
        usages = {"only": Usage(shares @ bits, 1 - shares[:, 0], shares)}
        loss = (mixture * errors).sum(1).mean() + strategy.penalty(usages, progress)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    chosen = bits[logits.argmax(1)]
    assert chosen.mean() == pytest.approx(limit, rel=0.08)
    assert torch.corrcoef(torch.stack([chosen, importance[:, 0].log()]))[0, 1] > 0.5
