"""Where gates start, and how the end is decided."""

import copy

import numpy as np
import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig, quantize
from hf_mpq.core import BudgetError, PrecisionSpace, Usage
from hf_mpq.cost import AverageBits, Limit, StoredSize
from hf_mpq.nn.walk import reluctances
from hf_mpq.search.allocators import solve
from hf_mpq.search.strategies import STRATEGIES, likeliest
from hf_mpq.search.strategies.start import LARGEST, logits_of_scores
from tests.tiny import outputs, tiny_model


def chances(space, seed=0):
    """Random probabilities of every open matrix."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, spec in space.weights.items():
        shares = torch.softmax(torch.randn(spec.layout.count, len(spec.candidates), generator=generator), 1)
        bits = torch.tensor(spec.candidates, dtype=torch.float32)
        found[name] = Usage(shares @ bits, shares[:, bits > 0].sum(1), shares)
    return found


def reluctances_of(usages):
    return {name: -usage.probabilities.log() for name, usage in usages.items()}


def argmax_bits(space, tables):
    return {
        name: tuple(np.array(spec.candidates)[np.asarray(tables[name]).argmax(1)].tolist())
        for name, spec in space.weights.items()
    }


@pytest.mark.parametrize("budget", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_start_from_scores_is_the_lagrangians_assignment(make_space, make_scores, budget, seed):
    """All but what its last fill and exchanges changed: those have no clear margin."""
    space = make_space(groups=16)
    cost, scores = AverageBits(space), make_scores(space, seed)
    logits = logits_of_scores(space, [Limit(cost, budget)], scores)
    found = argmax_bits(space, logits)
    wanted = {name: matrix.bits for name, matrix in solve(space, cost, budget, scores).assignment.matrices.items()}
    for name in space.weights:
        ours, theirs = np.array(found[name]), np.array(wanted[name])
        top = np.sort(logits[name].numpy(), axis=1)
        clear = top[:, -1] - top[:, -2] > 0.3
        assert clear.sum() > 8 and (ours == theirs)[clear].all()
    everything = torch.cat(list(logits.values()))
    assert everything.abs().max() <= LARGEST
    assert torch.equal(everything.amax(1), torch.full((len(everything),), LARGEST))


def test_the_median_margin_is_one_logit(make_space, make_scores):
    space = make_space(groups=16)
    logits = torch.cat(list(logits_of_scores(space, [Limit(AverageBits(space), 2.0)], make_scores(space)).values()))
    top = logits.sort(1).values
    margins = top[:, -1] - top[:, -2]
    assert margins.median() == pytest.approx(1, abs=0.2)
    assert margins.max() > 2 * margins.median(), "a larger margin must make a surer start"


def test_a_budget_for_everything_leaves_the_scores_alone(make_space, make_scores):
    space = make_space(groups=4)
    found = argmax_bits(space, logits_of_scores(space, [Limit(AverageBits(space), 4.0)], make_scores(space)))
    assert {bit for bits in found.values() for bit in bits} == {4}


def test_forbidden_choices_and_ties_keep_to_the_rules(make_spec, make_scores):
    space = PrecisionSpace({name: make_spec((64, 64), 8, tie="pair") for name in ("first", "second")})
    scores = make_scores(space)
    scores["first"][0] = [0.0, np.inf, np.inf]
    logits = logits_of_scores(space, [Limit(AverageBits(space), 2.0)], scores)
    assert torch.equal(logits["first"], logits["second"])
    assert logits["first"][0].tolist() == [LARGEST, -LARGEST, -LARGEST]


def test_prepare_sets_scores_as_the_start(make_case):
    case = make_case()
    strategy = case.strategy("joint")
    strategy.prepare(case.model, case.scores())
    wanted = logits_of_scores(case.space, case.limits, case.scores())
    for name, gate in case.gates().items():
        assert torch.equal(gate.logits.detach(), wanted[name]) and gate.temperature == 1


def test_the_start_by_bits(make_case):
    case = make_case()
    case.strategy("alternating").prepare(case.model)
    for gate in case.gates().values():
        assert gate.logits[0].tolist() == [0, 0.5, 1] and gate.temperature == 5


@pytest.mark.parametrize("gate", ["softmax", "neighbour"])
def test_the_start_at_the_top(make_case, gate):
    """Each candidate is nine times as likely as the one below."""
    case = make_case(gate=gate)
    case.strategy("descending", temperature=1.0).prepare(case.model)
    for one in case.gates().values():
        above, top = one.reluctance().diff(dim=1)[0], one.usage().probabilities[0, -1]
        torch.testing.assert_close(above[-1].neg().exp(), torch.tensor(9.0, dtype=torch.float64), rtol=1e-4, atol=0)
        assert float(top.detach()) == pytest.approx(0.9, abs=0.02) and set(one.derive().tolist()) == {4}


@pytest.mark.parametrize("budget, scores, message", [("2bits", None, "needs scores"), (None, {}, "needs a budget")])
def test_a_start_from_scores_says_what_is_missing(make_case, budget, scores, message):
    case = make_case(budget=budget)
    with pytest.raises(ValueError, match=message):
        case.strategy("joint").prepare(case.model, scores)


@pytest.mark.parametrize("cost", [StoredSize, AverageBits])
@pytest.mark.parametrize("seed", range(3))
def test_the_projection_meets_the_budget_and_is_the_argmax_where_that_does(make_space, cost, seed):
    space = make_space(groups=16)
    cost, usages = cost(space), chances(space, seed)
    wants = reluctances_of(usages)
    free = likeliest(space, wants)
    wanted = argmax_bits(space, {name: usage.probabilities for name, usage in usages.items()})
    assert {name: matrix.bits for name, matrix in free.matrices.items()} == wanted
    assert likeliest(space, wants, [Limit(cost, cost.of(free))]) == free
    assert likeliest(space, wants, [Limit(cost, 10 * cost.of(free))]) == free
    less = likeliest(space, wants, [Limit(cost, 0.7 * cost.of(free))])
    assert 0.6 * cost.of(free) < cost.of(less) <= 0.7 * cost.of(free)


def test_the_projection_gives_up_what_is_least_likely_to_matter(make_spec):
    space = PrecisionSpace({"only": make_spec((4, 64), 4, (2, 4))})
    shares = torch.tensor([[0.1, 0.9], [0.45, 0.55], [0.2, 0.8], [0.7, 0.3]])
    usages = {"only": Usage(shares @ torch.tensor([2.0, 4.0]), torch.ones(4), shares)}
    assert likeliest(space, reluctances_of(usages), [Limit(AverageBits(space), 3.0)]).matrices["only"].bits == (
        4,
        2,
        4,
        2,
    )
    assert likeliest(space, reluctances_of(usages), [Limit(AverageBits(space), 2.5)]).matrices["only"].bits == (
        4,
        2,
        2,
        2,
    )


@pytest.mark.parametrize("limit", [None, 3.0])
def test_tied_matrices_are_decided_together(make_spec, limit):
    space = PrecisionSpace({name: make_spec((2, 64), 2, (2, 4), tie="pair") for name in ("first", "second")})
    first, second = torch.tensor([[0.4, 0.6], [0.6, 0.4]]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    usages = {
        name: Usage(shares @ torch.tensor([2.0, 4.0]), torch.ones(2), shares)
        for name, shares in (("first", first), ("second", second))
    }
    found = likeliest(space, reluctances_of(usages), [Limit(AverageBits(space), limit)]).matrices
    assert found["first"].bits == found["second"].bits == (2, 4)


def test_impossible_budgets_and_missing_probabilities(make_space):
    space = make_space(groups=2, candidates=(2, 4))
    with pytest.raises(BudgetError, match="smallest possible is 2"):
        likeliest(space, reluctances_of(chances(space)), [Limit(AverageBits(space), 1.0)])
    with pytest.raises(ValueError, match="says nothing of its candidates"):
        likeliest(space, {})


def test_the_strategies_decide_as_they_say(make_case):
    case = make_case(budget="1bits")
    for gate in case.gates().values():
        torch.nn.init.normal_(gate.logits)
    free = case.strategy("bilevel").derive(case.model)[1]
    assert free == likeliest(case.space, reluctances(case.model)) and case.cost.of(free) > case.limit
    within = case.strategy("bilevel", decision="projection").derive(case.model)[1]
    assert case.cost.of(within) <= case.limit
    assert within == case.strategy("joint").derive(case.model)[1]


def test_fix_honours_ties_without_a_budget():
    config = MPQConfig(bits=(2, 4), groups=4, rules={r"(.*\.)(query|key)$": {"bits": (2, 4), "tie": r"\1"}})
    model = quantize(tiny_model("bert"), config)
    for name, module in model.named_modules():
        if name.endswith(("query.program.gate", "key.program.gate")):
            torch.nn.init.normal_(module.logits)
    found = hf_mpq.assignment_of(hf_mpq.fix(model)).matrices
    for layer in (0, 1):
        query, key = (found[f"encoder.layer.{layer}.attention.self.{part}"].bits for part in ("query", "key"))
        assert query == key and set(query) == {2, 4}


@pytest.mark.parametrize("name", ["joint", "alternating"])
@pytest.mark.parametrize("groups", [4, "columns:4"])
def test_compensation_keeps_the_function_at_the_start(make_case, name, groups):
    """At 0 or 8 bits the mixture is a shrunken model; scaled up by what is kept it is nearly the float one."""
    expected = outputs(tiny_model("bert"))[0]
    case = make_case(bits=(0, 8), groups=groups, budget=None)
    plain, scaled = copy.deepcopy(case.model), case.model
    options = {"start": "bits", "temperature": 1.0}
    case.strategy(name, **options).prepare(plain)
    case.strategy(name, **options, compensate_pruned=True).prepare(scaled)
    shrunken, kept = (float((outputs(model)[0] - expected).abs().mean()) for model in (plain, scaled))
    assert kept < 0.02 * float(expected.abs().mean()) + 5e-3 and kept < 0.1 * shrunken


def test_without_pruning_there_is_nothing_to_make_up_for(make_case):
    case = make_case(bits=(2, 8), budget=None)
    before = {name: value.clone() for name, value in case.model.named_parameters() if not name.endswith("logits")}
    STRATEGIES["joint"](case.space, [(case.cost, None)], start="zeros", compensate_pruned=True).prepare(case.model)
    after = dict(case.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())
