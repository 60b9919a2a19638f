"""Schemes of ties: the paper's counts, the exact filter, and the best of what is measured."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import BudgetError, MatrixAssignment, PrecisionSpace
from hf_mpq.cost import Limit, StoredSize
from hf_mpq.search import ALLOCATORS, Judge
from hf_mpq.search.allocators import paper_share, scheme_share
from tests.tiny import outputs, tiny_model

PAPER = [(16, (2, 4)), (8, (1, 1)), (4, (1, 1)), (8, (2, 4)), (4, (2, 4))]
SIZES = np.array([1, 1, 1, 1, 4, 4]) / 12  # query, key, value, output and the two of the feed-forward block
COUNTS = {0: (13_129, 5_733, 3_229, 709), 2: (10_856, 3_603, 905, 15)}
PATTERNS = ((1, 1), (2, 4), (1, 4))


@pytest.mark.parametrize("index_bits", COUNTS)
def test_as_many_configurations_of_bert_fit_as_in_the_paper(index_bits):
    shares = np.array([scheme_share(*scheme, index_bits) for scheme in PAPER])
    every = sum(np.meshgrid(*(size * shares for size in SIZES), indexing="ij"))
    assert tuple(int((every <= target + 1e-12).sum()) for target in (0.2, 0.15, 0.125, 0.1)) == COUNTS[index_bits]


def test_the_paper_counts_kept_weights_and_their_indices():
    assert [scheme_share(bits, (2, 4)) for bits in (16, 8, 4)] == [0.25, 0.125, 0.0625]
    assert [scheme_share(bits, (2, 4), 2) for bits in (16, 8, 4)] == [0.28125, 0.15625, 0.09375]


@pytest.fixture
def space(make_space):
    """Two matrices that are tied, and one beside; two or three patterns."""
    found = make_space(2, (2, 4, 8))
    tied = {name: replace(found.weights[name], tie="one").with_patterns(PATTERNS[:2]) for name in ("up", "beside")}
    return PrecisionSpace({**tied, "down": found.weights["down"].with_patterns(PATTERNS)})


def all_schemes(space):
    for (one, p), (two, q) in product(product((2, 4, 8), PATTERNS[:2]), product((2, 4, 8), PATTERNS)):
        yield {"up": MatrixAssignment((one,) * 2, p), "beside": MatrixAssignment((one,) * 2, p)} | {
            "down": MatrixAssignment((two,) * 2, q)
        }


def damage(assignment):
    """Not a sum over matrices: what one loses counts more where the other lost much."""
    lost = {
        name: 4.0 ** -one.bits[0] + 1 - one.keep_of[0] / one.keep_of[1] for name, one in assignment.matrices.items()
    }
    return lost["up"] + 3 * lost["down"] + 5 * lost["up"] * lost["down"]


def ranked(space, limit, share=None, index_bits=0):
    """Every combination that fits, tried out, the best first."""
    fits = [
        one
        for one in map(hf_mpq.Assignment, all_schemes(space))
        if StoredSize(space).of(one) <= limit and (share is None or paper_share(space, one, index_bits) <= share)
    ]
    return sorted(fits, key=damage)


@pytest.mark.parametrize("limit", [5_000, 6_500, 9_000, 20_000])
def test_all_that_fit_are_ranked_by_what_they_do_together(limit, space):
    expected = ranked(space, limit)
    allocator = ALLOCATORS["schemes"](measured=None)
    found = allocator.finalists(space, (Limit(StoredSize(space), limit),), 3, evaluate=damage)
    assert [one.to_dict() for one in found] == [one.to_dict() for one in expected[:3]]
    assert allocator(space, StoredSize(space), limit, evaluate=damage).to_dict() == expected[0].to_dict()


@pytest.mark.parametrize("index_bits", [0, 2])
def test_the_papers_count_is_a_limit_beside_the_bytes(index_bits, space):
    expected = ranked(space, 9_000, 0.1, index_bits)
    allocator = ALLOCATORS["schemes"](measured=None, share=0.1, index_bits=index_bits)
    assert allocator(space, StoredSize(space), 9_000, evaluate=damage).to_dict() == expected[0].to_dict()
    assert len(expected) < len(ranked(space, 9_000)) and len(ranked(space, 9_000, 0.1, 0)) > len(
        ranked(space, 9_000, 0.1, 2)
    )
    with pytest.raises(BudgetError, match=r"takes 0\.01 of float32 by the paper's count"):
        ALLOCATORS["schemes"](share=0.01)(space, StoredSize(space), 9_000, evaluate=damage)


def test_few_measurements_go_to_what_promises_most(space):
    seen = []
    allocator = ALLOCATORS["schemes"](measured=6)
    found = allocator(space, StoredSize(space), 7_000, evaluate=lambda one: seen.append(one) or damage(one))
    assert len(seen) == allocator.evaluation_count(space) == 1 + 5 + 8 + 6
    assert damage(found) <= 1.05 * damage(ranked(space, 7_000)[0])


def test_what_cannot_be_met_names_the_smallest_and_too_many_combinations_the_way_out(make_space, space):
    least = min(StoredSize(space).of(hf_mpq.Assignment(one)) for one in all_schemes(space))
    with pytest.raises(BudgetError, match=rf"smallest possible is {least:,.0f} bytes"):
        ALLOCATORS["schemes"]()(space, StoredSize(space), least - 1, evaluate=damage)
    assert StoredSize(space).of(ALLOCATORS["schemes"]()(space, StoredSize(space), least, evaluate=damage)) == least
    untied = make_space(2, (2, 4, 8)).weights["up"].with_patterns(PATTERNS)
    many = PrecisionSpace({f"layer.{number}": untied for number in range(8)})
    with pytest.raises(ValueError, match=r"8 ties with up to 9 schemes each have too many .* tie more matrices"):
        ALLOCATORS["schemes"]()(many, StoredSize(many), 9_000, evaluate=damage)


@pytest.mark.parametrize("name", [name for name in ALLOCATORS if not ALLOCATORS[name].chooses_patterns])
def test_no_other_allocator_leaves_patterns_open_unsaid(name, space):
    with pytest.raises(ValueError, match=r"has dense or 2:4 to choose from, and only the allocator 'schemes'"):
        ALLOCATORS[name]()(space, StoredSize(space), 9_000, {}, damage)


def test_a_judge_measures_what_fix_gives_and_leaves_the_model_as_it_was():
    """Masks and scales of every pattern, there and back, and again by what it kept."""
    config = MPQConfig(bits=(2, 4), groups=8, quantizer="lsq", patterns=("dense", "2:4", "1:4"))
    model = hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), config)
    before, state = outputs(model)[0], {name: value.clone() for name, value in model.state_dict().items()}
    judge, found = Judge(model, lambda one: float(outputs(one)[0].double().square().sum())), []
    base = hf_mpq.assignment_of(model)
    for pattern in ((2, 4), (1, 4), (1, 1), (2, 4)):
        chosen = {
            name: replace(one, bits=(4,) * len(one.bits), keep_of=one.keep_of and pattern)
            for name, one in base.matrices.items()
        }
        chosen |= {name: one for name, one in base.matrices.items() if one.keep_of is None}
        given = replace(base, matrices=chosen)
        found.append(judge.damage(given))
        fixed = hf_mpq.fix(hf_mpq.quantize(tiny_model("bert", num_hidden_layers=1), config), given)
        assert found[-1] == pytest.approx(float(outputs(fixed)[0].double().square().sum()), rel=1e-6)
        assert (outputs(model)[0] == before).all()
    assert found[0] == found[3] != found[1]
    assert all((value == state[name]).all() for name, value in model.state_dict().items())
