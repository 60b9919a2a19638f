"""One of a few choices for each matrix within limits: as by trying all."""

from itertools import product

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import BudgetError, budgets_of
from hf_mpq.cost import COSTS, Limit, limits_of
from hf_mpq.nn.walk import gates, prefixes, reluctances
from hf_mpq.plugin.space import space_of
from hf_mpq.search.strategies import likeliest
from hf_mpq.search.together import choose_together
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def case():
    config = MPQConfig(bits=(0, 2), gate="width", groups=6, activation_bits=8)
    model = hf_mpq.quantize(tiny_model("bert"), config)
    generator = torch.Generator().manual_seed(0)
    for gate in gates(model).values():
        if gate.sets_width:
            with torch.no_grad():
                gate.logits.copy_(torch.rand(gate.logits.shape, generator=generator).cumsum(1))  # the widest is wanted
    space = space_of(model)
    return space, prefixes(model), likeliest(space, reluctances(model))


def tried(case, limits):
    """The best of all choices that keep the limits."""
    _, choices, start = case
    best = None
    for picked in product(*choices.values()):
        bits = {name: tuple(one[0].tolist()) for name, one in zip(choices, picked)}
        found = type(start)(
            {name: type(one)(bits.get(name, one.bits)) for name, one in start.matrices.items()}, start.activation_bits
        )
        score = sum(one[1] for one in picked)
        if all(limit.cost.of(found) <= limit.most for limit in limits) and (best is None or score < best[0]):
            best = score, bits
    return best


def score_of(choices, found):
    return sum(
        next(score for bits, score in several if tuple(bits.tolist()) == found.matrices[name].bits)
        for name, several in choices.items()
    )


@pytest.mark.parametrize("share", [1.0, 0.8, 0.37, 0.0])
@pytest.mark.parametrize("kinds", [("size",), ("bops",), ("size", "bops")])
def test_it_is_the_best_of_all(case, kinds, share):
    space, choices, start = case
    costs = [COSTS[kind](space) for kind in kinds]
    least = choose_together(start, {name: several[:1] for name, several in choices.items()})
    limits = tuple(Limit(cost, cost.of(least) + (cost.of(start) - cost.of(least)) * share) for cost in costs)
    found = choose_together(start, choices, limits)
    assert all(limit.cost.of(found) <= limit.most for limit in limits)
    assert score_of(choices, found) == pytest.approx(tried(case, limits)[0])
    others = [name for name in start.matrices if name not in choices]
    assert all(found.matrices[name] == start.matrices[name] for name in others)


def test_without_a_limit_it_is_the_likeliest(case):
    _, choices, start = case
    assert choose_together(start, choices) == start


def test_what_cannot_be_met_is_said(case):
    space, choices, start = case
    with pytest.raises(BudgetError, match="cannot be met; the smallest possible is"):
        choose_together(start, choices, limits_of(space, budgets_of("0.9bits")))
