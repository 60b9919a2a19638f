"""An interrupted run ends as the uninterrupted one."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import DataCollatorForLanguageModeling, EarlyStoppingCallback, TrainerCallback
from transformers.trainer_jit_checkpoint import CheckpointManager

from hf_mpq import Assignment
from hf_mpq.core import METHODS
from hf_mpq.runs.checkpoints import complete_checkpoints
from hf_mpq.runs.record import RunRecord
from hf_mpq.training import TrainingStopped
from hf_mpq.training.run import selection as rule
from hf_mpq.training.run import stages as run_stages
from hf_mpq.training.run.settings import settings_of
from hf_mpq.training.run.students import Students
from tests.tiny import tiny_model
from tests.training.runs import quantized, resumable, sentences

RUNS = {
    "mpq": {"budget": "3bits"},
    "aq-bert": {"budget": "3bits"},
    "channelwise": {"budget": "3bits", "groups": "channel"},
    "sdq": {"budget": "3bits"},
    "fdq": {"budget": ["encoder:0.13x", "activations:1.5kB@1x11"]},
    "csq": {"budget": "3bits"},
    "bsq": {"budget": "3bits"},
    "ghost": {"budget": "4bits", "groups": "matrix"},
    "lq-nets": {"groups": "channel"},
    "hyperspherical": {"groups": "channel"},
    "vertical": {"bits": (2, 4, 8)},
    "nxmiformer": {"budget": "3bits", "rules": {r"\.\d+\.(att|int|out)": {"tie": r"\1"}}},
    "weight-coupling": {"budget": "3bits", "groups": "matrix"},
    "prune-ofa-pretrain": {},
    "prune-ofa": {},
}
FULL = {"prune-ofa"}
QUICK = {"paths": 1, "allocator": {"name": "bidirectional", "measured": 2, "patience": 0}}
STAGES = {
    "fdq": {"search": {"strategy_options": {"warmup": 0.0, "every": 2}}},  # resumed between two moves
    "weight-coupling": {"supernet": {"strategy_options": QUICK}},
}

SHORT = (("mpq", "1-search"), ("nxmiformer", "2-finetune"))
"""Stages of six steps."""
STEPS = (2, 5, 7)


class Interrupted(Exception):
    pass


class Stop(TrainerCallback):
    """Interrupts at a step of one stage."""

    def __init__(self, stage: str, step: int):
        self.stage, self.step = stage, step

    def on_step_end(self, args, state, control, **kwargs):
        if args.output_dir.endswith(self.stage) and state.global_step == self.step:
            raise Interrupted


def weights_of(folder):
    return load_file(folder / "model" / "model.safetensors")


def stage_folders(method):
    return [f"{number}-{stage.name}" for number, stage in enumerate(METHODS[method].stages, 1)]


def plan(method):
    """Twelve steps for each stage."""
    return {"stages": STAGES.get(method), "num_train_epochs": min(len(METHODS[method].stages), 2)}


class Keep(TrainerCallback):
    """Keeps what a kill at the end of a step leaves of a run, once for each of some steps of every stage."""

    def __init__(self, folder):
        self.folder = folder

    def on_step_end(self, args, state, control, **kwargs):
        stage, place = Path(args.output_dir), self.folder / f"{Path(args.output_dir).name}-{state.global_step}"
        if state.global_step in STEPS and not place.exists():
            shutil.copytree(stage.parent, place)


@pytest.fixture
def made(made_once):
    """The folder of an uninterrupted run, and of what kills would have left of it, each made once."""

    def make(method, folder):
        keep = Keep(folder / "left")
        resumable(quantized(method, **RUNS[method]), folder / "whole", callbacks=[keep], **plan(method)).train()

    return lambda method: made_once(method, lambda folder: make(method, folder))


@pytest.fixture
def whole(made):
    """Uninterrupted runs."""
    return lambda method: made(method) / "whole"


def marks(method, step):
    often = (step == 5 and method not in FULL) or (method, step) == ("mpq", 2)
    return [] if often else pytest.mark.full


@pytest.mark.parametrize(
    ("method", "stage", "step"),
    [
        pytest.param(method, stage, step, marks=marks(method, step))
        for method in RUNS
        for stage in stage_folders(method)
        for step in (STEPS[:2] if (method, stage) in SHORT else STEPS)
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(method, stage, step, made, tmp_path):
    folder = shutil.copytree(made(method) / "left" / f"{stage}-{step}", tmp_path / "run")
    resumable(quantized(method, **RUNS[method]), folder, **plan(method)).train(resume_from_checkpoint=True)
    assert_same_run(method, folder, made(method) / "whole")


def assert_same_run(method, tmp_path, expected):
    files = [folder / "assignment.json" for folder in (tmp_path, expected)]
    searched = [Assignment.load(file) if file.exists() else None for file in files]  # some decide nothing
    assert searched[0] == searched[1]
    for folder in stage_folders(method):
        ours, theirs = weights_of(tmp_path / folder), weights_of(expected / folder)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (json.loads((folder / "stages.json").read_text()) for folder in (tmp_path, expected))
    assert ours["selection"] == theirs["selection"]
    for name, result in theirs["finished"].items():
        parts = {key: ours["finished"][name][key] for key in ("steps", "train_loss")}
        assert parts == {key: result[key] for key in parts}


def killed_after(monkeypatch, owner, name, number=1):
    """Interrupts after so many calls of a method."""
    original, calls = getattr(owner, name), []

    def once(self, *args, **kwargs):
        found = original(self, *args, **kwargs)
        calls.append(name)
        if len(calls) == number:
            raise Interrupted
        return found

    monkeypatch.setattr(owner, name, once)


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (RunRecord, "decide", 1),  # of the search, whose last step is saved, before its model is written
        pytest.param(Students, "save", 2, marks=pytest.mark.full),  # the search's model, before it is finished
        (RunRecord, "select", 1),  # one candidate of two
        (RunRecord, "decide", 2),  # of the selection, before its name
    ],
)
def test_a_run_that_is_killed_between_two_files_ends_as_the_uninterrupted_one(owner, name, number, whole, tmp_path):
    expected = whole("mpq")
    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(Interrupted):
        killed_after(monkeypatch, owner, name, number)
        resumable(quantized("mpq", **RUNS["mpq"]), tmp_path).train()
    resumable(quantized("mpq", **RUNS["mpq"]), tmp_path).train(resume_from_checkpoint=True)
    assert_same_run("mpq", tmp_path, expected)


def test_a_selection_killed_before_the_winner_is_named_names_it(tmp_path, monkeypatch):
    """Also where the training-free assignment wins, which then is what the folder holds."""
    values = iter([0.9, 0.5])
    monkeypatch.setattr(rule, "mean_divergence", lambda *args: next(values))
    with pytest.MonkeyPatch.context() as once, pytest.raises(Interrupted):
        killed_after(once, RunRecord, "decide", 2)
        resumable(quantized("mpq", budget="3bits"), tmp_path, num_train_epochs=1).train()
    run = resumable(quantized("mpq", budget="3bits"), tmp_path, num_train_epochs=1)
    run.train(resume_from_checkpoint=True)
    selection = json.loads((tmp_path / "stages.json").read_text())["selection"]
    assert selection == {"divergence": {"search": 0.9, "training-free": 0.5}, "chosen": "training-free"}
    assert Assignment.load(tmp_path / "assignment.json") == run._preferences.assignment()


# A stop that is asked for


class Ask(TrainerCallback):
    """Asks for a stop at a step of one stage, and for a checkpoint."""

    def __init__(self, stage: str, step: int, save: bool = True):
        self.stage, self.step, self.save = stage, step, save

    def on_step_end(self, args, state, control, **kwargs):
        if args.output_dir.endswith(self.stage) and state.global_step == self.step:
            control.should_save, control.should_training_stop = self.save or control.should_save, True


@pytest.mark.parametrize(("method", "stage"), [("channelwise", "1-search"), ("mpq", "2-qat")])
def test_a_run_that_is_asked_to_stop_is_not_finished_and_goes_on(method, stage, whole, tmp_path):
    run = resumable(quantized(method, **RUNS[method]), tmp_path, callbacks=[Ask(stage, 4)])
    with pytest.raises(TrainingStopped, match=rf"{stage} was stopped at step 4 of \d+, .*resume_from_checkpoint=True"):
        run.train()
    record = json.loads((tmp_path / "stages.json").read_text())
    assert list(record["finished"]) == (["search"] if stage == "2-qat" else [])
    assert (tmp_path / "assignment.json").exists() == (stage == "2-qat")
    assert [path.name for path in complete_checkpoints(tmp_path / stage)] == ["checkpoint-3", "checkpoint-4"]
    assert not (tmp_path / stage / "model").exists()
    resumable(quantized(method, **RUNS[method]), tmp_path).train(resume_from_checkpoint=True)
    assert_same_run(method, tmp_path, whole(method))


def test_a_stop_at_the_last_step_is_none(tmp_path):
    resumable(quantized("uniform"), tmp_path, max_steps=4, callbacks=[Ask("1-qat", 4)]).train()
    assert json.loads((tmp_path / "stages.json").read_text())["finished"]["qat"]["steps"] == 4


def test_a_selection_that_is_stopped_is_not_finished(tmp_path, monkeypatch):
    made = run_stages.StageTrainer

    def stopping(*args, **options):
        stage = made(*args, **options)
        if stage.args.save_strategy == "no":
            stage.add_callback(Ask("2-qat", 1, save=False))
        return stage

    with monkeypatch.context() as once, pytest.raises(TrainingStopped):
        once.setattr(run_stages, "StageTrainer", stopping)
        resumable(quantized("mpq", **RUNS["mpq"]), tmp_path / "run", selection_steps=2).train()
    assert json.loads((tmp_path / "run/stages.json").read_text())["selection"] is None
    resumable(quantized("mpq", **RUNS["mpq"]), tmp_path / "run", selection_steps=2).train(resume_from_checkpoint=True)
    resumable(quantized("mpq", **RUNS["mpq"]), tmp_path / "whole", selection_steps=2).train()
    assert_same_run("mpq", tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_signal_within_a_step_stops_after_it(accumulation, whole, tmp_path, monkeypatch):
    """With transformers' own checkpoint at a SIGTERM, which would otherwise be made before the optimizer's step."""
    monkeypatch.setattr(CheckpointManager, "_sigterm_handler", lambda self, *args: self._enable_checkpoint())

    class Signal(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if args.output_dir.endswith("1-search") and state.global_step == 4:
                signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    cut = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    run = resumable(
        quantized("mpq", **RUNS["mpq"]), tmp_path / "run", enable_jit_checkpoint=True, callbacks=[Signal()], **cut
    )
    assert signal.getsignal(signal.SIGTERM) == before, "outside of stages the process ends at once"
    with pytest.raises(TrainingStopped, match="step 5 of"):
        run.train()
    assert signal.getsignal(signal.SIGTERM) == before
    assert [path.name for path in complete_checkpoints(tmp_path / "run/1-search")] == ["checkpoint-3", "checkpoint-5"]
    resumable(quantized("mpq", **RUNS["mpq"]), tmp_path / "run", **cut).train(resume_from_checkpoint=True)
    if accumulation == 1:
        assert_same_run("mpq", tmp_path / "run", whole("mpq"))
    else:
        resumable(quantized("mpq", **RUNS["mpq"]), tmp_path / "whole", **cut).train()
        assert_same_run("mpq", tmp_path / "run", tmp_path / "whole")


def test_early_stopping_is_refused(tmp_path):
    for given in (EarlyStoppingCallback, EarlyStoppingCallback()):
        with pytest.raises(ValueError, match="EarlyStoppingCallback would let the dev set choose"):
            resumable(quantized("uniform"), tmp_path, callbacks=[given])
        with pytest.raises(ValueError, match="EarlyStoppingCallback would let the dev set choose"):
            resumable(quantized("uniform"), tmp_path).add_callback(given)


def test_half_a_checkpoint_is_removed_and_not_used(whole, tmp_path):
    """One that was being deleted when the process died, and one that was being written."""
    with pytest.raises(Interrupted):
        resumable(quantized("mpq", **RUNS["mpq"]), tmp_path, callbacks=[Stop("2-qat", 10)]).train()
    folder = tmp_path / "2-qat"
    shutil.copytree(folder / "checkpoint-9", folder / "checkpoint-12")
    for step, lost in ((9, "model.safetensors"), (12, "optimizer.pt")):
        (folder / f"checkpoint-{step}" / "complete").unlink()
        (folder / f"checkpoint-{step}" / lost).unlink()
    (tmp_path / "2-qat" / "model.partial").mkdir()

    class First(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            self.steps = [*getattr(self, "steps", []), state.global_step]
            assert not (folder / "checkpoint-9").exists() or state.global_step >= 9

    seen = First()
    resumable(quantized("mpq", **RUNS["mpq"]), tmp_path, callbacks=[seen]).train(resume_from_checkpoint=True)
    assert seen.steps[0] == 6
    assert {path.name for path in folder.iterdir()} == {path.name for path in (whole("mpq") / "2-qat").iterdir()}
    assert_same_run("mpq", tmp_path, whole("mpq"))


OTHER = [
    ({"budget": "2.5bits"}, {}, 'config.budget was "3bits" and is now "2.5bits"'),
    ({"groups": 4}, {}, "config.groups was 8 and is now 4"),
    ({}, {"seed": 1}, "arguments.seed was 42 and is now 1"),
    ({}, {"num_train_epochs": 3}, "arguments.num_train_epochs was 2 and is now 3"),
    ({}, {"learning_rate": 1e-2}, r"arguments.learning_rate was 0.001 and is now 0.01"),
    ({}, {"per_device_train_batch_size": 4}, "examples_per_step was 8 and is now 4"),
    ({}, {"gradient_accumulation_steps": 2}, "examples_per_step was 8 and is now 16"),
    ({}, {"stages": {"qat": {"share": 0.5}}}, "plan.qat.share was 0.7 and is now 0.5"),
    ({}, {"stages": {"qat": {"arguments": {"lr_scheduler_type": "constant"}}}}, "lr_scheduler_type was not set"),
    ({}, {"train_dataset": sentences(90)}, "training_examples was 96 and is now 90"),
]


@pytest.mark.parametrize(("config", "options", "words"), OTHER)
def test_a_run_is_not_resumed_with_other_settings(config, options, words, whole):
    run = resumable(quantized("mpq", **{**RUNS["mpq"], **config}), whole("mpq"), **options)
    with pytest.raises(ValueError, match=f"of a run with other settings: .*{words}.* Resume with what it was"):
        run.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("what", ["model", "rows", "teacher"])
def test_a_run_is_not_resumed_with_another_model_or_other_data(what, whole, tmp_path):
    folder, given, options = shutil.copytree(whole("mpq"), tmp_path / "run"), quantized("mpq", **RUNS["mpq"]), {}
    if what == "model":
        with torch.no_grad():
            given.bert.encoder.layer[0].output.dense.weight.mul_(1.5)
    elif what == "rows":
        options["train_dataset"] = sentences(96).map(lambda row: {"input_ids": row["input_ids"][::-1]})
    else:
        content = json.loads((folder / "stages.json").read_text())
        content["given"]["teacher"] = "of another"
        content["teacher"] = "given"
        (folder / "stages.json").write_text(json.dumps(content))
        options["teacher"] = tiny_model("bert", "sequence")
    with pytest.raises(ValueError, match=f"of a run with other settings: given.{what} was .* and is now "):
        resumable(given, folder, **options).train(resume_from_checkpoint=True)


def test_a_new_head_is_no_other_model(whole, tmp_path):
    """It may be random whenever the checkpoint is loaded; the run has its own."""
    folder, given = shutil.copytree(whole("mpq"), tmp_path / "run"), quantized("mpq", **RUNS["mpq"])
    torch.nn.init.normal_(given.classifier.weight)
    resumable(given, folder).train(resume_from_checkpoint=True)


def test_a_model_that_its_run_has_trained_may_be_given_again(tmp_path):
    """As in a notebook, where a cell is run again."""
    model, stop = quantized("uniform"), [Stop("qat", 5)]
    with pytest.raises(Interrupted):
        resumable(model, tmp_path, callbacks=stop).train()
    resumable(model, tmp_path).train(resume_from_checkpoint=True)


def test_runs_of_versions_without_digests_are_resumed(whole, tmp_path):
    folder = shutil.copytree(whole("mpq"), tmp_path / "run")
    content = json.loads((folder / "stages.json").read_text())
    assert sorted(content.pop("given")) == ["model", "rows"]
    (folder / "stages.json").write_text(json.dumps(content))
    resumable(quantized("mpq", **RUNS["mpq"]), folder).train(resume_from_checkpoint=True)


def test_several_differences_are_one_error(whole):
    run = resumable(quantized("mpq", budget="4bits"), whole("mpq"), seed=1, learning_rate=1.0)
    with pytest.raises(ValueError, match=r"config\.budget.*; arguments\.seed.*; arguments\.learning_rate"):
        run.train(resume_from_checkpoint=True)


def test_what_does_not_change_the_result_may_change(whole, tmp_path):
    folder = shutil.copytree(whole("mpq"), tmp_path / "run")
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "logging_steps": 1, "save_steps": 7}
    resumable(quantized("mpq", **RUNS["mpq"]), folder, **options).train(resume_from_checkpoint=True)


def settings_written(run):
    return settings_of(run.method, run.plan, run._config, run.args, run.train_dataset, False, run.data_collator)


def test_masks_that_would_be_drawn_anew_are_not(tokenizer, tmp_path):
    """Which tokens are masked depends on the micro-batches."""
    masking = DataCollatorForLanguageModeling(tokenizer, mask_replace_prob=1.0, random_replace_prob=0.0)
    options = {
        "data_collator": masking,
        "max_steps": 2,
        "train_dataset": sentences(16).remove_columns(["labels", "idle"]),
    }
    resumable(quantized("uniform", head="masked"), tmp_path, **options).train()
    other = resumable(
        quantized("uniform", head="masked"),
        tmp_path,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        **options,
    )
    with pytest.raises(ValueError, match=r"micro_batches\.per_device_train_batch_size was 8 and is now 4"):
        other.train(resume_from_checkpoint=True)
    whole = {**options, "data_collator": DataCollatorForLanguageModeling(tokenizer, mlm=False)}
    assert "micro_batches" not in settings_written(resumable(quantized("uniform", head="masked"), tmp_path, **whole))


def test_a_run_that_lost_its_record_or_has_an_old_one_is_refused(tmp_path):
    resumable(quantized("uniform"), tmp_path, max_steps=2).train()
    record = json.loads((tmp_path / "stages.json").read_text())
    del record["arguments"]
    (tmp_path / "stages.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="does not say what its run was set to"):
        resumable(quantized("uniform"), tmp_path, max_steps=2).train(resume_from_checkpoint=True)
    (tmp_path / "stages.json").unlink()
    with pytest.raises(ValueError, match=r"holds 1-qat of a run, but no stages\.json"):
        resumable(quantized("uniform"), tmp_path, max_steps=2).train()
