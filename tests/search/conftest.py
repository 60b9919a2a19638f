"""Small precision spaces whose every assignment can be tried."""

import numpy as np
import pytest

from hf_mpq.core import Link, PrecisionSpace, RowBlock, SubgroupLayout, WeightSpec

FLOATS = dict.fromkeys(range(1, 9), 1)


def spec(shape, groups, candidates=(0, 2, 4), **fields):
    return WeightSpec(SubgroupLayout(shape, groups), candidates, floats=FLOATS, **fields)


def small_space(groups=2, candidates=(0, 2, 4), **fields):
    """A feed-forward pair with its link, and a matrix beside it."""
    weights = {
        "up": spec((96, 64), groups, candidates),
        "down": spec((64, 96), groups, candidates),
        "beside": spec((64, 64), groups, candidates),
    }
    return PrecisionSpace(weights, links=(Link("pointwise", (RowBlock("up", 0, 96),), "down", "gelu"),), **fields)


def random_scores(space, seed=0):
    """Scores that fall by about four with each bit, over sub-groups of very different weight."""
    random = np.random.default_rng(seed)

    def table(spec):
        falling = 4.0 ** -np.array(spec.candidates) * random.lognormal(
            0, 0.2, (spec.layout.count, len(spec.candidates))
        )
        return random.lognormal(0, 1.5, (spec.layout.count, 1)) * np.array(spec.layout.numel)[:, None] * falling

    return {name: table(spec) for name, spec in space.weights.items() if spec.bits is None}


@pytest.fixture
def make_spec():
    return spec


@pytest.fixture
def make_space():
    return small_space


@pytest.fixture
def make_scores():
    return random_scores
