"""Neural channel expansion as a run: widened before the search, expanded in it, decided within the budget."""

import re
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from transformers import AutoModelForSequenceClassification, TrainerCallback

import hf_mpq
from hf_mpq.core import BudgetError, Part, budgets_of
from hf_mpq.cost import COSTS, AverageBits, limits_of
from hf_mpq.cost.limit import carried_over
from hf_mpq.nn.reshape import sizes_of
from hf_mpq.nn.walk import gates, matrices
from hf_mpq.plugin.space import space_of
from hf_mpq.search.strategies import STRATEGIES, Progress
from hf_mpq.training.run.plan import plan_of
from tests.tiny import outputs, tiny_model
from tests.training.runs import arguments, quantized, sentences, trainer

QUICK = {"warmup": 0.0, "every": 1, "threshold": 1.01}


def run(folder, model=None, stages=None, **more):
    options = {
        "max_steps": 10,
        "save_steps": 2,
        "calibration_examples": 8,
        "train_dataset": sentences(48),
        "stages": {"search": {"strategy_options": QUICK}, **(stages or {})},
        **more,
    }
    model = model or quantized("channel-expansion", layers=2, groups=6, budget="2bits", activation="static")
    return trainer(model, folder, **options)


class Stop(TrainerCallback):
    def __init__(self, stage, step):
        self.stage, self.step = stage, step

    def on_step_end(self, args, state, control, **kwargs):
        if args.output_dir.endswith(self.stage) and state.global_step == self.step:
            raise KeyboardInterrupt


class Widths(TrainerCallback):
    """What is open in each step of the search."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        found = [gate.open.tolist() for gate in gates(model).values() if gate.sets_width and gate.searching]
        self.seen += [found] if found else []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that is not interrupted: its folder, model and widths."""
    seen = Widths()
    one = run(tmp_path_factory.mktemp("whole"), callbacks=[seen])
    one.train()
    return one, seen.seen


def test_a_run_gives_widths_within_the_budget_of_the_given_model(whole, tmp_path):
    one, _ = whole
    model = one.model
    assert sizes_of(model).rows == 84 and "shapes" not in model.config.quantization_config.to_dict()
    given = quantized("channel-expansion", layers=2, groups=6)
    most = 2 * sum(sum(spec.layout.numel) for spec in space_of(given).weights.values() if spec.role == "encoder")
    stored = sum(
        layer.storage().lines.get(2, 0) * layer.storage().length * 2
        for _, layer in matrices(model)
        if layer.spec.role == "encoder"
    )
    assert 0.8 * most < stored <= most
    bits = {b for name, matrix in hf_mpq.assignment_of(model).matrices.items() if "layer" in name for b in matrix.bits}
    assert bits <= {0, 2} and 2 in bits
    expected = outputs(model)[0]
    one.save_packed(tmp_path)
    packed = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(outputs(packed)[0], expected, atol=1e-5, rtol=0)
    hf_mpq.prepare(packed, "cpu-float")
    torch.testing.assert_close(outputs(packed)[0], expected, atol=1e-5, rtol=0)
    small = packed.bert.encoder.layer[0].output.dense
    assert small.weight.shape[1] < 84 or all(0 not in m.bits for m in hf_mpq.assignment_of(model).matrices.values())


def test_widths_keep_a_limit_of_bits_and_one_of_operations(whole, tmp_path):
    """Together; the widths that keep the first alone take more operations."""
    cost = COSTS["bops"](space_of(whole[0].model))
    assignment = hf_mpq.assignment_of(whole[0].model)
    taken, least = (cost.of(one) for one in (assignment, narrowest(assignment)))
    budget = f"2bits + {(least + 0.7 * (taken - least)) / 1e9:.12f}GBOPs"
    model = quantized("channel-expansion", layers=2, groups=6, budget=budget, activation="static")
    one = run(tmp_path, model, save_strategy="no")
    one.train()
    limits = limits_of(space_of(one.model), budgets_of(budget))
    assert [limit.cost.unit for limit in limits] == ["bits", "bops"]
    bits, operations = (limit.cost.of(hf_mpq.assignment_of(one.model)) for limit in limits)
    assert bits < 2 and least < operations <= limits[1].most < taken


def narrowest(assignment):
    """Two of six sub-groups wherever some are pruned."""
    matrices = dict(assignment.matrices)
    for name, one in matrices.items():
        if 0 in one.bits:
            matrices[name] = replace(one, bits=(2, 2, 0, 0, 0, 0))
    return replace(assignment, matrices=matrices)


def test_widths_open_one_by_one_from_the_original_on(whole):
    _, seen = whole
    assert [sum(one) for one in seen[0]] == [3, 3], "2, 3 and 4 of 6 sub-groups; 4 are the original rows"
    assert all(sum(b) - sum(a) in (0, 1) for old, new in pairwise(seen) for a, b in zip(old, new))
    assert any(sum(one) > 3 for one in seen[-1])


@pytest.mark.parametrize("stage, step", [("1-search", 2), ("1-search", 3), ("2-qat", 2)])
def test_an_interrupted_run_ends_as_the_uninterrupted_one(stage, step, whole, tmp_path):
    expected, seen = whole
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[Stop(stage, step)]).train()
    widths = Widths()
    again = run(tmp_path, callbacks=[widths])
    again.train(resume_from_checkpoint=True)
    assert hf_mpq.assignment_of(again.model) == hf_mpq.assignment_of(expected.model)
    theirs = expected.model.state_dict()
    assert all(torch.equal(one, theirs[name]) for name, one in again.model.state_dict().items())
    assert widths.seen == seen[len(seen) - len(widths.seen) :]


def test_the_found_network_is_trained_anew_as_in_the_paper(tmp_path):
    config = {"gate": Part("width", drawn=2, mixing="interpolation"), "groups": 6, "budget": "2bits"}
    model = quantized("channel-expansion", layers=2, **config)
    one = run(tmp_path, model, stages={"qat": {"start": "loaded", "reshape": "widen"}}, save_strategy="no")
    one.train()
    assert sizes_of(one.model).rows == 84 and one.plan[1].reshape_options == {}
    found = [m.bits for m in hf_mpq.assignment_of(one.model).matrices.values() if 0 in m.bits]
    assert all(bits == tuple(sorted(bits, reverse=True)) for bits in found)


def test_budgets_of_the_given_model_are_those_of_the_wider_one(tmp_path):
    given = quantized("channel-expansion", layers=2, groups=6)
    wide = one_run_student(given, tmp_path)
    before, after = space_of(quantized("channel-expansion", layers=2, groups=6)), space_of(wide)
    for text in ("8%", "encoder:0.1x", "activations:0.5x@1x16", "2bits", "9000bytes", "3ms"):
        budget = hf_mpq.Budget.parse(text)
        (found,) = carried_over((budget,), before, after)
        assert carried_over((budget,), before, before) == (budget,)
        assert (found == budget) == (budget.kind not in ("bits", "ratio"))
    (bits,) = carried_over((hf_mpq.Budget.parse("2bits"),), before, after)
    weights = [sum(sum(s.layout.numel) for s in one.weights.values() if s.role == "encoder") for one in (before, after)]
    assert bits.amount * weights[1] == pytest.approx(2 * weights[0])


def one_run_student(model, folder):
    """The model that the first stage begins with."""
    made = run(folder, model)
    made._record(None)
    return made.students.start("previous", None, None, Part("widen"))


def test_the_search_begins_as_the_model_that_was_given(tmp_path):
    given = quantized("channel-expansion", layers=2, groups="channel", activation_bits=None)
    for gate in gates(given).values():
        if gate.sets_width:
            with torch.no_grad():
                gate.logits[0, -1] = 1e3
    expected = outputs(given)[0]
    wide = one_run_student(given, tmp_path)
    for gate in gates(wide).values():
        if gate.sets_width:
            with torch.no_grad():
                gate.logits.zero_()
                gate.logits[0, 4] = 1e3
    torch.testing.assert_close(outputs(wide)[0], expected, atol=1e-5, rtol=0)


def test_it_looks_at_even_intervals_after_the_warm_up():
    space = space_of(quantized("channel-expansion", layers=2, groups=6))
    one = STRATEGIES.make("expansion", space, limits_of(space), options={"warmup": 0.2, "every": 0.25})
    looks = [step for step in range(50) if one._looks(Progress(step, 50, 10))]
    assert looks == [20, 30, 40]
    passes = [[each.name for each in one.passes(Progress(step, 50, 10))] for step in (0, 9, 10)]
    assert passes == [["weights"], ["weights"], ["weights", "gates"]]
    assert one.passes(Progress(10, 50, 10))[1].data == "search" and one.split == "steps"
    for options in ({"threshold": 0}, {"every": 0}):
        with pytest.raises(ValueError, match="above 0"):
            STRATEGIES.make("expansion", space, limits_of(space), options=options)


def test_what_cannot_be_met_is_said_before_anything_is_trained(tmp_path):
    """In the bits of the model that was given, so that what is said to be possible is."""
    for budget in ("0.5bits", "1.2bits"):
        model = quantized("channel-expansion", layers=2, groups=6, budget=budget)
        with pytest.raises(BudgetError, match=f"the budget of {budget[:-4]} bits cannot be met") as refused:
            run(tmp_path, model).train()
        assert {path.name for path in tmp_path.iterdir()} <= {"run.lock"}, "another budget may be tried there"
    least = float(re.search(r"the smallest possible is ([\d.]+) bits", str(refused.value))[1])
    model = quantized("channel-expansion", layers=2, groups=6, budget=f"{least + 1e-4}bits")
    done = run(tmp_path, model)
    done.train()
    weights = AverageBits(space_of(quantized("channel-expansion", layers=2, groups=6))).weights
    own = AverageBits(space_of(done.model), weights)
    assert own.of(hf_mpq.assignment_of(done.model)) <= least + 1e-4


def test_a_stage_takes_a_reshape_and_says_what_is_misspelt(tmp_path):
    method = hf_mpq.core.METHODS["channel-expansion"]

    def planned(**changes):
        return plan_of(method, arguments(tmp_path, stages={"search": changes}), True)[0]

    assert planned().reshape == "widen" and planned().reshape_options == {"rows": 1.5}
    assert planned(reshape_options={"rows": 2.0}).reshape_options == {"rows": 2.0}
    assert planned(reshape={"name": "widen", "rows": 1.25}).reshape_options == {"rows": 1.25}
    with pytest.raises(ValueError, match="unknown reshape 'widden'; did you mean 'widen'"):
        planned(reshape="widden")
    with pytest.raises(ValueError, match="'row'; did you mean 'rows'"):
        planned(reshape_options={"row": 2})


@torch.no_grad()
def needy(rows):
    """A model whose layers need so many feed-forward rows each: the others have no weights."""
    model = tiny_model("bert")
    for layer, needed in zip(model.bert.encoder.layer, rows):
        layer.intermediate.dense.weight[needed:] = 0
        layer.intermediate.dense.bias[needed:] = 0
        layer.output.dense.weight[:, needed:] = 0
        layer.output.dense.weight *= 3
    return model


@pytest.mark.full
def test_its_pick_is_among_the_best_three_of_all_that_are_trained(tmp_path):
    """Two layers of five widths each, of which the first needs many rows and the other few: of the 25, those within the
    limit are trained, and compared by the loss that all of them were trained on."""
    rows, budget = (50, 12), "1.62bits"
    config = {"method": "channel-expansion", "groups": 5, "activation_bits": None}
    config["gate"] = Part("width", steps=5, least=1)
    student = lambda: hf_mpq.quantize(needy(rows), hf_mpq.MPQConfig(**config, budget=budget))  # noqa: E731
    options = {"teacher": needy(rows), "save_strategy": "no", "learning_rate": 2e-3}
    search = {"search": {"reshape_options": {"rows": 1.0}, "strategy_options": {"warmup": 0.0}}}
    one = trainer(student(), tmp_path / "search", num_train_epochs=4, stages=search, **options)
    one.train()
    found = tuple(
        sum(map(bool, matrix.bits))
        for name, matrix in hf_mpq.assignment_of(one.model).matrices.items()
        if "intermediate" in name
    )
    limit, start, losses = limits_of(space_of(student()), budgets_of(budget))[0], hf_mpq.assignment_of(student()), {}
    for widths in product(range(1, 6), repeat=2):
        assignment = with_widths(start, widths)
        if limit.cost.of(assignment) <= limit.most:
            fixed = {**config, "method": "uniform", "bits": (0, 2), "assignment": assignment}
            model = hf_mpq.quantize(needy(rows), hf_mpq.MPQConfig(**fixed))
            losses[widths] = trainer(model, tmp_path / f"{widths}", num_train_epochs=1, **options).train().training_loss
    best = sorted(losses, key=losses.get)
    assert len(best) > 8 and found in best[:3], (found, losses)


def with_widths(assignment, widths):
    names = [name for name in assignment.matrices if "intermediate" in name]
    chosen = {name: (2,) * width + (0,) * (5 - width) for name, width in zip(names, widths)}
    matrices_ = {
        name: hf_mpq.core.MatrixAssignment(chosen.get(name, one.bits)) for name, one in assignment.matrices.items()
    }
    return hf_mpq.Assignment(matrices_, assignment.activation_bits)
