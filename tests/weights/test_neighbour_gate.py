"""The gate that draws between two neighbours: its mean, its gradient, and the ladder that it walks down."""

from math import log, sqrt

import pytest
import torch

from hf_mpq.core import SubgroupLayout, WeightSpec
from hf_mpq.search.strategies.seeding import seeded
from hf_mpq.weights import GATES, WeightProgram

CANDIDATES = (1, 2, 4, 8)
DRAWS = 10_000


def gate_of(groups=1, beta=0.7, candidates=CANDIDATES, **options):
    gate = GATES["neighbour"](groups, candidates, **options).train()
    with torch.no_grad():
        gate.logits.fill_(log(beta / (1 - beta)))
    return gate


def test_the_mean_of_the_drawn_weight_is_that_of_the_two_neighbours():
    """Within four standard errors, in every weight; each draw is one of the two bit for bit, the same for all rows."""
    spec = WeightSpec(SubgroupLayout.of("matrix", (4, 6)), CANDIDATES, quantizer="lsq", gate="neighbour")
    program, weight = WeightProgram(spec), torch.randn(4, 6, generator=seeded(1))
    program.initialise(weight)
    program.calibrate(weight)
    gate, upper, lower = program.gate.train(), *(program.quantizer.candidate(weight, bits) for bits in (8, 4))
    beta, count = float(gate.usage().probabilities[0, 3].detach()), 0
    assert beta == pytest.approx(0.9)
    for step in range(DRAWS):
        gate.redraw(seeded(0, step))
        chosen = gate().probabilities[0].tolist()
        assert chosen in ([0, 0, 0, 1], [0, 0, 1, 0])
        count += chosen[3]
        if step < 50:
            assert torch.equal(program(weight), upper if chosen[3] else lower)
    mean, error = (count * upper + (DRAWS - count) * lower) / DRAWS, sqrt(beta * (1 - beta) / DRAWS)
    expected = beta * upper + (1 - beta) * lower
    assert ((mean - expected).abs() <= 4 * error * (upper - lower).abs() + 1e-6).all()


@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize("beta", [0.2, 0.5, 0.9])
def test_the_gradient_of_beta_is_that_of_the_binary_concrete_expectation(beta, temperature):
    """Of a linear loss: d/d(logit) of the mean of sigmoid((logit + g) / t), g logistic, integrated by quantiles."""
    logit = torch.tensor(log(beta / (1 - beta)), dtype=torch.float64, requires_grad=True)
    quantiles = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    torch.sigmoid((logit + quantiles.logit()) / temperature).mean().backward()
    gate = gate_of(DRAWS, beta, temperature=temperature)
    slopes = torch.tensor([0.0, 0.0, -1.0, 2.0])  # 3 more at the upper neighbour than at the lower
    gate.redraw(seeded(3))
    (gate().probabilities @ slopes).sum().backward()
    found, idle = gate.logits.grad[:, -1], gate.logits.grad[:, :-1]
    assert abs(float(found.mean()) - 3 * float(logit.grad)) < 4 * float(found.std()) / sqrt(DRAWS)
    assert not idle.any(), "pairs below the rung get no gradient"


def test_without_drawing_the_two_are_interpolated():
    gate = gate_of(draw=False, beta=0.7)
    torch.testing.assert_close(gate().probabilities, torch.tensor([[0.0, 0.0, 0.3, 0.7]]))
    assert torch.equal(gate.eval()().probabilities, torch.tensor([[0.0, 0.0, 0.0, 1.0]]))


def test_rungs_never_rise_and_end_at_the_bottom():
    generator, gate = seeded(5), gate_of(6)
    before = gate.rung.clone()
    for _ in range(200):
        with torch.no_grad():
            gate.logits += torch.randn(gate.logits.shape, generator=generator) - 0.3
        gate.update()
        betas, moved = gate.usage().probabilities[torch.arange(6), gate.rung], gate.descend(0.2)
        assert torch.equal(before - gate.rung, ((betas < 0.2) & (before > 0)).long())
        assert moved == bool((gate.rung < before).any())
        assert gate.logits.abs().max() <= gate.LARGEST
        before = gate.rung.clone()
    assert not gate.rung.any() and gate.derive().tolist() == [1] * 6
    assert torch.equal(gate().probabilities, torch.eye(4)[:1].expand(6, -1))
    gate().probabilities[:, 0].sum().backward()
    assert not gate.logits.grad.any(), "at the bottom there is nothing to learn"


def test_reluctance_by_hand():
    """At 4 of (1, 2, 4, 8) bits, beta 0.6, below it 0.9: to stay, a draw down, two of them, and what was left."""
    gate = gate_of(beta=0.6)
    with torch.no_grad():
        gate.logits[0, 0] = log(9)
    gate.rung.fill_(2)
    found = gate.reluctance()[0].exp().reciprocal()
    torch.testing.assert_close(found[:3], torch.tensor([0.4 * 0.1, 0.4, 0.6], dtype=torch.float64), rtol=1e-5, atol=0)
    assert 0 < found[3] < 1e-20 and gate.derive().tolist() == [4]


def test_draws_rungs_and_temperature_come_back_from_a_file():
    gate, other = gate_of(3), gate_of(3)
    gate.rung.copy_(torch.tensor([3, 2, 1]))
    other.load_state_dict(gate.state_dict())
    for one in (gate, other):
        one.redraw(seeded(7, 4))
    assert torch.equal(gate().probabilities, other().probabilities)
    again = gate().probabilities
    assert torch.equal(gate().probabilities, again), "one draw for all passes"


def test_one_candidate_is_no_choice():
    gate = gate_of(2, candidates=(4,))
    assert gate.derive().tolist() == [4, 4] and gate().probabilities.tolist() == [[1.0], [1.0]]
    gate.start(torch.zeros(2, 1))
    assert not gate.descend(0.9) and gate.reluctance().tolist() == [[0.0], [0.0]]
