"""What every strategy that searches keeps to, and what each one does."""

import copy
from math import exp

import pytest
import torch

import hf_mpq
from hf_mpq.core import Assignment, MatrixAssignment
from hf_mpq.core.registry import options_of
from hf_mpq.nn import usages
from hf_mpq.search.strategies import STRATEGIES, Pass
from hf_mpq.search.strategies.temperature import Temperature
from tests.tiny import outputs
from tests.weights.cases import going_with

SEARCHES = [name for name in STRATEGIES if STRATEGIES[name].searches]
GATES, WEIGHTS = frozenset({"gates"}), frozenset({"weights", "quantizers"})


@pytest.mark.parametrize("inputs", [None, (4, 8)], ids=["float inputs", "open inputs"])
@pytest.mark.parametrize("gate", ["softmax", "gumbel", "neighbour", "planes"])
@pytest.mark.parametrize("name", SEARCHES)
def test_the_contract(make_case, at_step, loss_of, name, gate, inputs):
    """Passes are made of known groups, gates move by their optimizer, and the decision can be fixed and packed."""
    case = make_case(gate=gate, activation_bits=inputs, **going_with(gate))
    top = gate == "neighbour" and "start" in options_of(STRATEGIES[name])  # scores leave pairs no doubt
    strategy = case.strategy(name, **{"start": "top"} if top else {})
    strategy.prepare(case.model, case.scores() if strategy.needs_scores else None)
    kind, options = strategy.gate_optimizer()
    gates = [logits for gate in case.gates().values() for logits in gate.parameters()]
    before = [logits.detach().clone() for logits in gates]
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind](gates, **options)
    moved = False
    case.model.train()  # what is drawn, and no budget counts, learns from the loss alone
    for step in (1, 19, 20, 29):  # from the first step on, before what becomes sharp is saturated
        strategy.schedule(case.model, at_step(step))
        optimizer.zero_grad()
        for one in strategy.passes(at_step(step)):
            moved = moved or "gates" in one.updates
            assert one.updates and one.updates <= GATES | WEIGHTS and one.data in ("step", "search")
            assert strategy.split == "steps" or one.data == "step"
            if "gates" in one.updates:
                loss_of(case, strategy, at_step(step), one.penalised).backward()
        optimizer.step()
    assert all((logits != start).any() == moved and logits.isfinite().all() for logits, start in zip(gates, before))
    shares = [value for key, value in strategy.metrics(case.model).items() if key.startswith("inputs/")]
    assert sum(shares) == pytest.approx(0.0 if inputs is None else 1.0)
    model, assignment = strategy.derive(case.model.eval())
    assert model is case.model and set(assignment.matrices) == set(case.space.weights)
    assert not strategy.keeps_limit or case.cost.of(assignment) <= case.limit
    hf_mpq.fix(model, assignment)
    expected = outputs(model)[0]
    torch.testing.assert_close(outputs(hf_mpq.pack(model))[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SEARCHES)
def test_it_has_no_state_outside_the_model(make_case, at_step, name):
    """Another object says the same of the same model, as after a resume."""
    case = make_case()
    first = case.strategy(name)
    first.prepare(case.model, case.scores() if first.needs_scores else None)
    second = case.strategy(name)
    second.load_state_dict(first.state_dict())
    for step in (0, 9, 17, 29):
        assert first.passes(at_step(step)) == second.passes(at_step(step))
        penalties = [one.penalty(usages(case.model), at_step(step)) for one in (first, second)]
        assert penalties[0] == penalties[1]
    assert first.derive(case.model)[1] == second.derive(case.model)[1]
    assert first.metrics(case.model) == second.metrics(case.model)


@pytest.mark.parametrize("name", SEARCHES)
def test_metrics_add_up(make_case, name):
    case = make_case()
    strategy = case.strategy(name)
    strategy.prepare(case.model, case.scores() if strategy.needs_scores else None)
    found = strategy.metrics(case.model)
    shares = [value for key, value in found.items() if key.startswith("bits/")]
    assert sum(shares) == pytest.approx(1) and all(0 < share <= 1 for share in shares)
    assert strategy.gate_optimizer()[1]["lr"] == 0 or found["temperature"] == strategy.temperature.start
    assert found["expected_cost"] == pytest.approx(case.cost.expected(usages(case.model)).item())
    assert 0 <= found["uncertainty"] < 1
    assert all(isinstance(value, float) for value in found.values())


def test_metrics_of_certain_gates(make_case):
    case = make_case(bits=(2, 4))
    strategy = case.strategy("bilevel")
    strategy.prepare(case.model)
    assert strategy.metrics(case.model)["uncertainty"] == pytest.approx(0.5)
    for gate in case.gates().values():
        with torch.no_grad():
            gate.logits.copy_(torch.tensor([[0.0, 50.0]]).expand_as(gate.logits))
    found = strategy.metrics(case.model)
    assert found["bits/4"] == 1 and "bits/2" not in found and found["uncertainty"] == pytest.approx(0, abs=1e-3)
    assert found["expected_cost"] == pytest.approx(found["cost"], rel=1e-3) and found["cost"] == pytest.approx(4)


def passes(case, name, steps, at_step, **options):
    strategy = case.strategy(name, **options)
    return [tuple((one.updates, one.penalised) for one in strategy.passes(at_step(step))) for step in steps]


def test_bilevel_trains_gates_on_the_slice_after_the_warm_up(make_case, at_step):
    case, steps = make_case(), (0, 7, 8, 9, 10, 18, 29)
    weights, gates = ((WEIGHTS, False),), ((GATES, True),)
    assert passes(case, "bilevel", steps, at_step) == [weights, weights, (), (), weights, gates, gates]
    assert passes(case, "bilevel", steps, at_step, warmup_epochs=0)[2:4] == [gates, gates]
    assert passes(case, "bilevel", (8, 9), lambda step: at_step(step, steps=10)) == [gates, gates], "one epoch only"
    assert STRATEGIES["bilevel"].split == "epochs" and case.strategy("bilevel").decision == "argmax"
    assert case.strategy("bilevel").gate_optimizer() == ("sgd", {"lr": 0.1})


def test_alternating_trains_gates_on_the_slice_and_all_data_warms_up(make_case, at_step):
    case, steps = make_case(), (0, 8, 10, 19, 20, 28)
    weights, gates = ((WEIGHTS, False),), ((GATES, True),)
    assert passes(case, "alternating", steps, at_step) == [weights, gates, weights, gates, weights, gates]
    warm = passes(case, "alternating", steps, at_step, warmup=0.65)
    assert warm == [weights, weights, weights, weights, weights, gates]
    paper = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
    assert case.strategy("alternating").gate_optimizer() == ("sgd", paper)
    assert case.strategy("alternating", optimizer="adam").gate_optimizer() == ("adam", {"lr": 0.01})


def test_joint_trains_both_in_one_pass(make_case, at_step):
    case = make_case()
    both = ((GATES | WEIGHTS, True),)
    assert passes(case, "joint", (0, 9, 29), at_step) == [both] * 3
    assert passes(case, "joint", (0, 9, 29), at_step, warmup=0.2) == [((WEIGHTS, False),), both, both]
    assert STRATEGIES["joint"].split is None and STRATEGIES["joint"].needs_scores
    assert not case.strategy("joint", start="zeros").needs_scores


@pytest.mark.parametrize("name", ["alternating", "joint"])
def test_time_begins_when_the_gates_move(make_case, at_step, name):
    case = make_case("1bits")
    strategy = case.strategy(name, warmup=0.2, temperature=(5.0, 0.3), start="bits", penalty="hinge")
    strategy.prepare(case.model)
    assert [strategy.temperature_at(at_step(step)) for step in (0, 6)] == [5.0, 5.0]
    assert strategy.temperature_at(at_step(30)) == pytest.approx(0.3)
    first, half = (strategy.penalty(usages(case.model), at_step(step)) for step in (6, 18))
    assert float(first) == pytest.approx(0.01 * float(half)) and float(half) > 0


def test_bilevel_falls_by_epochs_after_the_warm_up(make_case, at_step):
    case = make_case()
    strategy = case.strategy("bilevel", temperature={"start": 5.0, "decay": 0.045}, warmup_epochs=2)
    strategy.prepare(case.model)
    gate = next(iter(case.gates().values()))
    seen = []
    for step in (0, 9, 29, 30, 39, 49):
        strategy.schedule(case.model, at_step(step, steps=50))
        seen.append(float(gate.temperature))
    assert seen == pytest.approx([5, 5, 5, 5 * exp(-0.045), 5 * exp(-0.045), 5 * exp(-0.09)])
    default = case.strategy("bilevel")
    assert [default.temperature_at(at_step(step)) for step in (0, 19, 20)] == pytest.approx([5, 5, 0.3])
    assert [default.temperature_at(at_step(step, steps=20)) for step in (0, 9, 10)] == pytest.approx([5, 5, 0.3])
    assert [default.temperature_at(at_step(step, steps=10)) for step in (0, 5, 10)] == pytest.approx(
        [5, (5 * 0.3) ** 0.5, 0.3]
    )


def test_temperatures_by_hand(at_step):
    falling = Temperature.of((5.0, 0.3))
    assert [falling.at(at_step(step)) for step in (0, 15, 30)] == pytest.approx([5, (5 * 0.3) ** 0.5, 0.3])
    assert Temperature.of(0.7).at(at_step(20)) == 0.7
    waiting = Temperature.of({"start": 2.0, "decay": 0.5, "wait": 1})
    assert [waiting.at(at_step(step)) for step in (0, 10, 20)] == pytest.approx([2, 2, 2 * exp(-0.5)])


@pytest.mark.parametrize(
    "words, message",
    [((0.0, 1.0), "above zero"), ((1.0, -1.0), "above zero"), ({"start": 1.0, "end": 0.1, "decay": 0.1}, "not both")],
)
def test_impossible_temperatures(words, message):
    with pytest.raises(ValueError, match=message):
        Temperature.of(words)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"start": "random"}, "start must be one of"),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adam"),
        ({"decision": "sample"}, "decision must be one of argmax, projection"),
        ({"penalty": "quadratic"}, "unknown penalty"),
        ({"warmup": 1.0}, "share of the stage"),
        ({"compensate_pruned": True}, "mixes evenly"),
    ],
)
def test_impossible_options(make_case, options, message):
    with pytest.raises(ValueError, match=message):
        make_case().strategy("joint", **options)


@pytest.mark.parametrize("name", SEARCHES)
def test_without_open_gates_there_is_nothing_to_search(make_case, name):
    case = make_case(bits=4, budget=None)
    with pytest.raises(ValueError, match="nothing to search"):
        case.strategy(name).prepare(case.model)


def test_without_a_budget_the_penalty_is_linear_and_the_decision_the_argmax(make_case, at_step):
    case = make_case(budget=None)
    strategy = case.strategy("alternating")
    strategy.prepare(case.model)
    penalty = strategy.penalty(usages(case.model), at_step(3))
    largest = copy.deepcopy(case.model)
    full = case.cost.of(hf_mpq.nn.derive(hf_mpq.fix(largest, everywhere(case, 4))))
    assert penalty.item() == pytest.approx(case.cost.expected(usages(case.model)).item() / full)
    assert set(strategy.derive(case.model)[1].matrices["encoder.layer.0.output.dense"].bits) == {4}


def everywhere(case, bits):
    return Assignment(
        {name: MatrixAssignment(spec.bits or (bits,) * spec.layout.count) for name, spec in case.space.weights.items()}
    )


def test_a_search_pulls_the_expected_cost_into_the_budget(make_case, at_step):
    """The penalty alone, with the strategy's own optimizer, brings an even start to the limit, not far below it."""
    case = make_case(budget="1.2bits")
    strategy = case.strategy("joint", start="zeros", temperature=1.0)
    strategy.prepare(case.model)
    logits = [gate.logits for gate in case.gates().values()]
    optimizer = torch.optim.Adam(logits, **strategy.gate_optimizer()[1])
    for step in range(100):
        optimizer.zero_grad()
        strategy.penalty(usages(case.model), at_step(step, steps=100)).backward()
        optimizer.step()
    assert float(case.cost.expected(usages(case.model))) == pytest.approx(1.2, rel=0.05)


def test_passes_are_plain_data():
    assert Pass() == Pass("train", WEIGHTS, "step", False)
