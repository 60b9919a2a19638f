"""What a stage says beyond its loss is done: schedules, what is trained, float stages."""

from dataclasses import replace

import pytest
import torch
from transformers import TrainerCallback

import hf_mpq
from hf_mpq import MPQTrainer
from hf_mpq.core import Part, StageSpec
from hf_mpq.nn.walk import matrices, set_rounding
from hf_mpq.search.schedules import SCHEDULES, Schedule
from hf_mpq.training import TrainingStopped
from hf_mpq.training.run.plan import _merged
from tests.tiny import outputs
from tests.training.runs import quantized, resumable, trainer

MASKED = {"method": "weight-coupling", "bits": (2, 4), "mask": "element", "mask_options": {"density": 0.3}}
OPTIONS = {"admm": {"every": 2}, "gradual-pruning": {"every": 2}, "turbulence": {"every": 0.2}}
PRUNING = {
    "supernet": {
        "schedules": {name: OPTIONS.get(name, {}) for name in SCHEDULES if name != "bit-sparsity"},
        "strategy_options": {"paths": 1},
    }
}


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    run = resumable(quantized(**MASKED), tmp_path_factory.mktemp("pruned"), max_steps=10, stages=PRUNING)
    run.train()
    return weights(run.model)


def test_a_schedule_runs_in_a_stage_and_its_masks_are_shipped(pruned):
    keeps = [value for name, value in pruned.items() if name.endswith("mask.keep")]
    assert keeps and all(keep.float().mean() == pytest.approx(0.3, abs=0.01) for keep in keeps)


def test_a_run_that_was_stopped_in_the_middle_of_a_ramp_ends_the_same(pruned, tmp_path):
    options = {"max_steps": 10, "stages": PRUNING}
    stopped = resumable(quantized(**MASKED), tmp_path, callbacks=[StopAfter(4)], **options)
    with pytest.raises(TrainingStopped):
        stopped.train()
    resumed = resumable(quantized(**MASKED), tmp_path, **options)
    resumed.train(resume_from_checkpoint=True)
    again = weights(resumed.model)
    assert all(torch.equal(value, again[name]) for name, value in pruned.items())


@pytest.mark.parametrize(
    "trainable, moves",
    [
        (["steps"], lambda name: name.endswith(".step")),
        (["classifier", "LayerNorm"], lambda name: "classifier" in name or "LayerNorm" in name),
    ],
)
def test_only_what_a_stage_trains_moves(trainable, moves, tmp_path):
    model = quantized(quantizer="lsq")
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    run = trainer(model, tmp_path, max_steps=3, stages={"qat": {"trainable": trainable}})
    run.train()
    after = dict(run.model.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(map(moves, moved)), moved


def test_a_part_that_fits_nothing_is_refused(tmp_path):
    run = trainer(quantized(), tmp_path, max_steps=3, stages={"qat": {"trainable": ["clasifier"]}})
    with pytest.raises(ValueError, match="'clasifier' fits no parameter"):
        run.train()


@pytest.mark.parametrize("activation", ["dynamic-token", "static", "learned"])
def test_without_rounding_a_model_is_the_float_one(activation):
    model = quantized(activation=activation, bits=2)
    set_rounding(model, False)
    float_model = quantized(activation=activation, bits=2)
    for _, layer in matrices(float_model):
        layer.input_quantizer = None
    set_rounding(float_model, False)
    for ours, theirs in zip(outputs(model), outputs(float_model)):
        torch.testing.assert_close(ours, theirs)
    rounded = outputs(set_rounding(model, True)) if activation == "dynamic-token" else None
    assert rounded is None or not torch.equal(rounded[0], outputs(float_model)[0])


def test_a_float_stage_trains_without_rounding(tmp_path, monkeypatch):
    seen = []

    class Watch(Schedule):
        def before_step(self, model, progress):
            seen.append(next(layer.program.rounding for _, layer in matrices(model)))

    monkeypatch.setitem(SCHEDULES._items, "watch", Watch)
    run = trainer(
        quantized(bits=3), tmp_path, max_steps=3, stages={"qat": {"rounding": False, "schedules": {"watch": {}}}}
    )
    run.train()
    assert seen == [False] * 3
    assert isinstance(run, MPQTrainer) and all(layer.program.rounding for _, layer in matrices(run.model))


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"strategy": "joint"}, {}),
        ({"strategy": "joint", "strategy_options": {"start": "bits"}}, {"start": "bits"}),
        ({"strategy": "alternating"}, {"warmup": 0.2}),
        ({"strategy": Part("alternating", warmup=0.1)}, {"warmup": 0.1}),
        ({"strategy_options": {"optimizer": "sgd"}}, {"warmup": 0.2, "optimizer": "sgd"}),
    ],
)
def test_another_strategy_has_none_of_the_old_ones_options(changes, options):
    stage = StageSpec("search", strategy=Part("alternating", warmup=0.2))
    assert replace(stage, **_merged(stage, changes)).strategy_options == options


def test_objectives_and_schedules_that_are_given_are_all_that_there_are():
    stage = StageSpec("admm", objectives={"task": {}}, schedules={"admm": {"rho": 0.1}, "turbulence": {}})
    alone = _merged(stage, {"schedules": {"admm": {}}, "objectives": {"soft-labels": {}}})
    assert alone == {"schedules": {"admm": {}}, "objectives": {"soft-labels": {}}}
    assert _merged(stage, {"schedules": {}}) == {"schedules": {}}
    assert "schedules" not in _merged(stage, {"objectives": {"task": {}}})


@pytest.mark.parametrize("method", ["lq-nets", "uniform", "nxmiformer"])
def test_one_candidate_under_a_budget_is_trained_without_scores(method, tmp_path):
    patterns = {"patterns": ["2:4"]} if method == "nxmiformer" else {}
    run = trainer(quantized(method=method, bits=[3], budget="3bits", **patterns), tmp_path, max_steps=4)
    run.train()
    assert not (tmp_path / "scores.safetensors").exists()
    chosen = hf_mpq.assignment_of(run.model).matrices
    assert {bits for name, one in chosen.items() if ".layer." in name for bits in one.bits} == {3}
