"""The super-net: its passes by hand, its draws, mitigation, and the budgets that it serves."""

import copy

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax
from transformers import TrainerCallback

import hf_mpq
from hf_mpq.core import METHODS, BudgetError, PrecisionSpace, budgets_of
from hf_mpq.nn.paths import drawn_path, highest_path
from hf_mpq.nn.walk import matrices, take_path
from hf_mpq.search.judge import Judge, taking
from hf_mpq.search.schedules import SCHEDULES
from hf_mpq.search.strategies import STRATEGIES, Pass, Progress
from hf_mpq.search.strategies.seeding import seeded
from hf_mpq.training.objectives import OBJECTIVES
from hf_mpq.training.stage.module import StageModule
from hf_mpq.training.stage.paths import with_path
from tests.tiny import HEADS, outputs, tiny_model
from tests.training.runs import collate, quantized, sentences, trainer
from tests.training.test_gradients import still

QUICK = {"paths": 2, "allocator": {"name": "bidirectional", "measured": 2, "patience": 0}}
OPTIONS = {"max_steps": 6, "save_steps": 2, "stages": {"supernet": {"strategy_options": QUICK}}}


def super_net(**config):
    return quantized("weight-coupling", **{"groups": "matrix", "layers": 1, "budget": "3bits", **config})


def sets(model):
    return {name: layer.program.gate.allowed for name, layer in matrices(model) if layer.program.gate.searching}


# Passes


def test_a_step_is_the_maximum_path_and_drawn_ones_that_it_teaches():
    stage = METHODS["weight-coupling"].stages[-1]
    strategy = STRATEGIES.make(stage.strategy, PrecisionSpace({}), (), options=stage.strategy_options)
    passes = strategy.passes(Progress(3, 10, 5))
    assert passes[0] == Pass("maximum", path="highest") and len(passes) == 4
    assert {(one.path, one.teacher) for one in passes[1:]} == {("drawn", "maximum")}
    with pytest.raises(ValueError, match="at least 1"):
        STRATEGIES["weight-coupling"](PrecisionSpace({}), (), paths=0)
    with pytest.raises(ValueError, match="unknown allocator"):
        STRATEGIES["weight-coupling"](PrecisionSpace({}), (), allocator="bidirektional")


class Seen(TrainerCallback):
    """Gradients of the first step, and the paths of every pass."""

    def __init__(self):
        self.paths = {}

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.step = state.global_step
        if not hasattr(self, "hook"):
            self.hook = model.register_forward_pre_hook(self.look)

    def look(self, model, args):
        taken = {name: layer.program.gate.path for name, layer in matrices(model) if layer.program.gate.searching}
        if all(path is not None for path in taken.values()) and model.training:
            self.paths.setdefault(self.step, []).append(torch.cat(list(taken.values())).tolist())

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if not hasattr(self, "found"):
            self.found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}

    def on_train_end(self, args, state, control, **kwargs):
        self.hook.remove()


def seen_in(folder, model=None, micro=1, **options):
    record = Seen()
    cut = {"per_device_train_batch_size": 8 // micro, "gradient_accumulation_steps": micro}
    given = {**OPTIONS, **cut, "max_grad_norm": 0.0, "callbacks": [record, *options.pop("callbacks", [])], **options}
    run = trainer(super_net() if model is None else model, folder, train_dataset=sentences(8), **given)
    try:
        run.train(resume_from_checkpoint=(folder / "stages.json").exists())
    except KeyboardInterrupt:
        record.hook.remove()
    return record


def by_hand(teacher, seed):
    """Half of the labels' and half of the teacher's for each pass, and the hidden states of what is at its lowest."""
    student, batch = still(super_net()).train(), collate(list(sentences(8)))
    SCHEDULES.make("turbulence").before_step(student, Progress(0, 1, 1))
    assert any(not allowed.all() for allowed in sets(student).values())
    layers = {name: layer for name, layer in matrices(student) if name in sets(student)}
    mask = batch["attention_mask"].bool()
    parameters, total = dict(student.named_parameters()), 0.0
    with torch.no_grad():
        wanted = teacher(**batch).logits
    for number in range(3):
        path = drawn_path(student, seeded(seed, 0, number, 3)) if number else highest_path(student)
        given = take_path(student, path)(**batch, output_hidden_states=True)
        soft = kl_div(log_softmax(given.logits, 1), log_softmax(wanted, 1), reduction="batchmean", log_target=True)
        total = total + 0.5 * given.loss + 0.5 * soft
        if not number:
            wanted, reference = given.logits.detach(), given.hidden_states[1].detach()
        lowest = [name for name, allowed in sets(student).items() if path[name] == allowed.int().argmax()]
        sizes = {name: layer.weight.numel() for name, layer in layers.items()}
        share = sum(sizes[name] for name in lowest) / sum(sizes.values())
        errors = (given.hidden_states[1] - reference).square().mean(-1) * mask
        total = total + 0.01 * share * (errors.sum(1) / mask.sum(1)).mean()
    found = torch.autograd.grad(total, [*parameters.values()], allow_unused=True)
    return {name: grad for name, grad in zip(parameters, found) if grad is not None}


def test_the_gradient_of_a_step_is_the_sum_of_its_passes_by_hand(tmp_path):
    teacher = still(tiny_model("bert", num_hidden_layers=1, num_labels=2)).eval()
    expected = by_hand(teacher, seed=42 + 1)
    whole, cut = (
        seen_in(tmp_path / str(micro), still(super_net()), micro, teacher=teacher, max_steps=1) for micro in (1, 4)
    )
    scale = max(float(grad.abs().max()) for grad in expected.values())
    for name, grad in expected.items():
        for found in (whole.found[name], cut.found[name]):
            torch.testing.assert_close(found, grad, rtol=1e-3, atol=1e-5 * scale)
    assert cut.paths[0] == whole.paths[0] * 4, "the same in micro-batches"


# Draws


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


def test_draws_are_allowed_differ_and_go_on_after_a_resume(tmp_path):
    whole = seen_in(tmp_path / "whole")
    assert list(whole.paths) == list(range(6))
    drawn = [path for paths in whole.paths.values() for path in paths[1:]]
    assert len({tuple(path) for path in drawn}) == len(drawn) == 12
    assert all(paths[0] == [4] * 6 for paths in whole.paths.values()), "the maximum path"
    first = seen_in(tmp_path / "stopped", callbacks=[Stop()])
    rest = seen_in(tmp_path / "stopped")
    assert min(rest.paths) == 2 and {**first.paths, **rest.paths} == whole.paths
    assert seen_in(tmp_path / "other", seed=1).paths != whole.paths


def test_only_what_is_allowed_is_drawn():
    model = super_net(rules={r"attention\.self\.(query|key)": {"bits": (2, 8), "tie": r"one"}})
    for name, layer in matrices(model):
        if name.endswith("intermediate.dense"):
            layer.program.gate.allow(torch.tensor([[False, True, False, True, False]]))
    paths = [drawn_path(model, seeded(step)) for step in range(40)]
    positions = {name: {int(path[name]) for path in paths} for name in paths[0]}
    assert next(found for name, found in positions.items() if name.endswith("intermediate.dense")) == {1, 3}
    assert next(found for name, found in positions.items() if name.endswith("value")) == {0, 1, 2, 3, 4}
    tied = [[int(path[name]) for path in paths] for name in paths[0] if name.endswith(("query", "key"))]
    assert tied[0] == tied[1] and set(tied[0]) == {0, 1}
    highest = highest_path(model)
    assert {int(highest[name]) for name in highest} == {1, 3, 4}


def test_open_inputs_are_drawn_and_searched_too(tmp_path):
    model = super_net(activation_bits=(2, 4, 8), budget="3bits + activations:0.76x")
    paths = [drawn_path(model, seeded(step)) for step in range(40)]
    inputs = [name for name in paths[0] if name.endswith(".input")]
    assert len(inputs) == 6 and all({int(path[name]) for path in paths} == {0, 1, 2} for name in inputs)
    run = trainer(model, tmp_path, **{**OPTIONS, "max_steps": 2, "save_strategy": "no"})
    run.train()
    found = hf_mpq.assignment_of(run.model)
    assert min(found.activation_bits.values()) < 8 and hf_mpq.size_report(run.model).average_bits <= 3
    (free,) = run.assignments(["3bits"])
    assert set(free.activation_bits.values()) == {8}, "a budget that does not count them does not lower them"
    assert hf_mpq.assignment_of(run.searched_model(free)) == free


def test_following_inputs_have_no_path_of_their_own():
    model = super_net(activation_bits="weights")
    assert not [name for name in drawn_path(model, seeded(0)) if name.endswith(".input")]


def test_a_path_by_another_name_is_refused():
    with pytest.raises(ValueError, match="'highest' or 'drawn'; got 'lowest'"):
        with_path(Pass(path="lowest"), 0, super_net(), Progress(0, 1, 1))


# Mitigation


def module_of(model):
    teacher = copy.deepcopy(model)
    return StageModule(model, {"distortion": OBJECTIVES["distortion"](model, teacher)}, teacher)


def distortion_at(model, path):
    module, batch = module_of(model).eval(), collate(list(sentences(4)))
    passes = (Pass("maximum", path=highest_path(model)), Pass("low", path=path, teacher="maximum"))
    module.begin(passes)
    found = []
    for one in passes:
        take_path(model, one.path)
        found.append(float(module(one, None, **batch)["distortion"].detach()))
    take_path(model, {})
    module.close()
    return found


def test_mitigation_is_zero_on_the_maximum_path_and_counts_what_is_at_its_lowest():
    model = super_net(layers=2)
    highest = highest_path(model)
    assert distortion_at(model, highest) == [0.0, 0.0]
    name = "encoder.layer.1.output.dense"
    low, second = ({**highest, name: torch.tensor([place])} for place in (0, 1))
    assert distortion_at(model, second) == [0.0, 0.0], "not its lowest"
    share = 32 * 56 / sum(layer.weight.numel() for key, layer in matrices(model) if "layer.1" in key)
    batch = collate(list(sentences(4)))
    with torch.no_grad():
        ours, theirs = (
            take_path(model.eval(), path)(**batch, output_hidden_states=True).hidden_states[2]
            for path in (low, highest)
        )
    mask = batch["attention_mask"].bool()
    errors = ((ours - theirs).square().mean(-1) * mask).sum(1) / mask.sum(1)
    assert distortion_at(model, low)[1] == pytest.approx(share * float(errors.mean()), rel=1e-4)
    gate = dict(matrices(model))[name].program.gate
    gate.allow(torch.tensor([[False, True, True, True, True]]))
    assert distortion_at(model, low)[1] == 0 < distortion_at(model, second)[1], "the lowest that is allowed"
    gate.allow(torch.tensor([[False, False, False, False, True]]))
    assert distortion_at(model, highest) == [0.0, 0.0], "one alone is no lowest"


def test_mitigation_needs_a_search_and_a_teacher_of_its_shape():
    with pytest.raises(ValueError, match="it is for a search"):
        OBJECTIVES["distortion"](quantized("uniform"), tiny_model("bert"))
    model = super_net()
    wide = tiny_model("bert", hidden_size=64)
    module = StageModule(model, {"distortion": OBJECTIVES["distortion"](model, wide)}, wide)
    module.begin((Pass(),))
    assert float(module(Pass(), None, **collate(list(sentences(4))))["distortion"].detach()) == 0
    take_path(model, {name: torch.zeros_like(path) for name, path in highest_path(model).items()})
    with pytest.raises(ValueError, match="a model of the same shape"):
        module(Pass(), None, **collate(list(sentences(4))))


# Budgets


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("super-net")
    run = trainer(super_net(), folder, **OPTIONS)
    run.train()
    return run


BUDGETS = ["3bits", "2.5bits", "2bits"]


def test_one_super_net_serves_several_budgets_each_as_it_is_on_its_path(trained, tmp_path):
    before, state = outputs(trained.model), {name: one.clone() for name, one in trained.model.state_dict().items()}
    found = trained.assignments(BUDGETS)
    assert found[0] == hf_mpq.assignment_of(trained.model), "what the run decided"
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(trained.model)))
    assert all(torch.equal(one, state[name]) for name, one in trained.model.state_dict().items())
    folder = trained.args.output_dir
    live = HEADS["sequence"].from_pretrained(f"{folder}/1-supernet/model")
    assert len(sets(live)) == 6
    for budget, assignment in zip(BUDGETS, found):
        model = trained.searched_model(assignment)
        assert hf_mpq.size_report(model).average_bits <= float(budget.removesuffix("bits"))
        with taking(live, assignment):
            expected = outputs(live)
        assert all(torch.equal(a, b) for a, b in zip(outputs(model), expected)), budget
    assert len({hf_mpq.size_report(trained.searched_model(one)).total_bytes for one in found}) == 3
    trained.save_packed(tmp_path / "small", found[1])
    packed = HEADS["sequence"].from_pretrained(tmp_path / "small")
    torch.testing.assert_close(outputs(packed)[0], outputs(trained.searched_model(found[1]))[0], atol=1e-5, rtol=0)


def test_another_process_finds_the_same_and_the_run_stays(trained):
    first = trained.assignments(["2.5bits"])
    again = trainer(super_net(), trained.args.output_dir, **OPTIONS)
    assert again.assignments(["2.5bits"]) == first
    again.train(resume_from_checkpoint=True)
    assert again.assignments(BUDGETS[1:2]) == first
    assert hf_mpq.assignment_of(again.model) == hf_mpq.assignment_of(trained.model)
    with pytest.raises(BudgetError, match="smallest possible is 2"):
        trained.assignments(["1bits"])
    for one in ("3bits", 0.2):
        with pytest.raises(BudgetError, match=f"give a list, such as \\['{one}'\\]"):
            trained.assignments(one)
    assert hf_mpq.assignment_of(trained.model) == hf_mpq.assignment_of(again.model), "also after an error"


def test_frozen_precisions_are_chosen_only_where_nothing_else_meets_the_budget(tmp_path):
    model = super_net()
    strategy = trainer(model, tmp_path, **OPTIONS)._strategy
    stage = METHODS["weight-coupling"].stages[-1]
    names = list(sets(model))
    gate = dict(matrices(model))[names[0]].program.gate
    gate.allow(torch.tensor([[False, True, True, True, True]]))
    judge = Judge(model, lambda live: float((gate.path != 0).all()))  # 2 bits there are free
    free, forced = (
        strategy(stage, model, budgets_of(budget), None).derive(model, judge)[1].matrices[names[0]].bits
        for budget in ("2.5bits", "2bits")
    )
    assert free != (2,) == forced


@pytest.mark.parametrize(
    "method, config, message",
    [
        ("uniform", {}, "searches nothing here"),
        ("weight-coupling", {"budget": "3bits"}, r"1-supernet searches, and is not finished: call train\(\) first"),
    ],
)
def test_runs_without_a_search_that_is_done_say_so(method, config, message, tmp_path):
    run = trainer(quantized(method, **config), tmp_path)
    with pytest.raises(ValueError, match=message):
        run.assignments(["3bits"])
    with pytest.raises(ValueError, match=message):
        run.searched_model(hf_mpq.assignment_of(run.model))


@pytest.mark.parametrize("method", ["mpq", "aq-bert"])
def test_other_searches_project_what_they_found_or_refuse(method, tmp_path):
    run = trainer(quantized(method, budget="3bits"), tmp_path, max_steps=6, selection_examples=0)
    run.train()
    if method == "aq-bert":
        with pytest.raises(ValueError, match="takes the likeliest precisions whatever they cost"):
            run.assignments(["2.5bits"])
        return
    found = run.assignments(["3bits", "2.5bits"])
    assert found[0] == hf_mpq.assignment_of(run.model)
    assert [hf_mpq.size_report(run.searched_model(one)).average_bits <= bits for one, bits in zip(found, (3, 2.5))]


def test_a_method_that_only_searches_needs_something_open(tmp_path):
    with pytest.raises(ValueError, match="only searches, and every precision is decided"):
        trainer(quantized("weight-coupling", bits=4, gate="fixed"), tmp_path)
