"""Whole runs: every method, what they leave behind, and what is refused."""

import copy
import json
import os
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import IterableDataset
from transformers import (
    HfArgumentParser,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import hf_mpq
from hf_mpq import MPQConfig, MPQTrainer, MPQTrainingArguments
from hf_mpq.core import METHODS, StageSpec
from hf_mpq.nn.batches import batches_of
from hf_mpq.runs.checkpoints import complete_checkpoints
from hf_mpq.search.strategies.gate_search import GateSearch
from hf_mpq.training.run import parts, selection
from hf_mpq.training.run.plan import decides, plan_of, shapes, shares, trial_steps
from hf_mpq.training.run.students import Students
from hf_mpq.training.stage.checkpoints import load_state, saved_state
from hf_mpq.training.stage.forward_names import named_inputs
from tests.processes import run_python, start_python
from tests.tiny import HEADS, MOST, tiny_model
from tests.training.runs import arguments, collate, quantized, resumable, sentences, trainer

TRAINED = {
    "mpq": {"budget": "3bits"},
    "aq-bert": {"budget": "3bits"},
    "aq-bert+kd": {"budget": "3bits"},
    "bigger-faster": {},
    "bsq": {"budget": "3bits"},
    "channelwise": {"budget": "3bits", "groups": "channel"},
    "class-based": {"budget": "3bits", "groups": "channel"},
    "csq": {"budget": "3bits"},
    "ghost": {"budget": "4bits", "groups": "matrix"},
    "q-bert": {"budget": "3bits"},
    "q8": {"groups": "matrix"},
    "lq-nets": {"groups": "channel"},
    "hyperspherical": {"groups": "channel"},
    "sdq": {"budget": "3bits"},
    "fdq": {"budget": "3bits"},
    "nxmiformer": {"budget": "6bits", "rules": {r"\.\d+\.(att|int|out)": {"tie": r"\1"}}},
    "channel-expansion": {"budget": "2bits", "groups": 6},
    "prune-ofa": {},
    "prune-ofa-pretrain": {},
    "uniform": {"budget": "2.5bits", "bits": (2, 3, 4, 8)},
    "vertical": {},
    "weight-coupling": {"budget": "2.5bits", "groups": "matrix"},
}
ALWAYS = ("mpq", "aq-bert", "class-based")
SHAPES = {"target": 1e6, "tokens": 8, "measured": 5, "held_out": 1, "window": 0.0, "draws": 1}
STAGES = {
    "bigger-faster": {"supernet": {"strategy_options": SHAPES}},
    "fdq": {"search": {"strategy_options": {"every": 3, "warmup": 0.0}}},
}
"""So that short runs see steps of their quantizers, and few shapes."""


class Logs(TrainerCallback):
    """Everything that is logged."""

    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.rows.append(dict(logs))


def test_every_method_with_stages_is_tried():
    assert set(TRAINED) == {name for name in METHODS if METHODS[name].stages}


@pytest.mark.parametrize(
    "method", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.full) for name in TRAINED]
)
def test_a_method_trains_within_its_budget_and_what_it_ships_is_what_it_trained(method, tmp_path):
    logs, model = Logs(), quantized(method, **TRAINED[method])
    given = {"eval_dataset": sentences(24), "logging_steps": 2, "stages": STAGES.get(method)}
    run = trainer(model, tmp_path, callbacks=[logs], **given)
    output = run.train()
    stages = [f"{k}-{stage.name}" for k, stage in enumerate(METHODS[method].stages, 1)]
    assert {"0-start", "stages.json", *stages} <= set(os.listdir(tmp_path))
    record = json.loads((tmp_path / "stages.json").read_text())
    assert list(record["finished"]) == [stage.name for stage in METHODS[method].stages]
    assert all("eval_loss" in result for result in record["finished"].values())
    assert output.global_step == sum(result["steps"] for result in record["finished"].values())

    run.save_packed(tmp_path / "packed")
    packed = HEADS["sequence"].from_pretrained(tmp_path / "packed").eval()
    batch = collate(list(sentences(8)))
    del batch["labels"]
    with torch.no_grad():
        torch.testing.assert_close(packed(**batch).logits, run.model.eval()(**batch).logits, rtol=1e-4, atol=1e-5)
        half = HEADS["sequence"].from_pretrained(tmp_path / "packed", dtype=torch.bfloat16).eval()
        assert half(**batch).logits.isfinite().all()
    budget = TRAINED[method].get("budget")
    if budget is not None and not method.startswith("aq-bert"):  # which takes the argmax, whatever it costs
        assert hf_mpq.size_report(packed).average_bits <= float(budget.removesuffix("bits")) + 1e-6
    if METHODS[method].stages[-1].rounding:  # a float stage is scored as it is
        scored = list(record["finished"].values())[-1]["eval_loss"]
        assert run.evaluate()["eval_loss"] == pytest.approx(scored, rel=1e-4)

    shown = {name for row in logs.rows for name in row}
    assert {f"loss_{name}" for stage in METHODS[method].stages for name in stage.objectives} <= shown
    if decides(METHODS[method].stages[0]) and not shapes(METHODS[method].stages[0]):
        assert {"expected_cost", "cost", "uncertainty"} <= shown
        assert METHODS[method].retraining_free or "loss_penalty" in shown
        assert METHODS[method].retraining_free or ("temperature" in shown) == (method not in ("bsq", "fdq"))
        assert all(
            sum(share for name, share in row.items() if name.startswith("bits/")) == pytest.approx(1)
            for row in logs.rows
            if "cost" in row
        )
    assert {row["stage"] for row in logs.rows if "loss" in row} == set(range(1, len(stages) + 1))
    last = [row for row in logs.rows if "loss" in row][-1]
    assert "cost" in last and sum(share for name, share in last.items() if name.startswith("bits/")) == pytest.approx(1)
    shipped = hf_mpq.size_report(packed)
    if budget is not None and not decides(METHODS[method].stages[-1]):
        assert last["cost"] == pytest.approx(shipped.average_bits)
    scores = [row for row in run.state.log_history if "eval_loss" in row][: len(stages)]
    assert [(row["stage"], row["step"]) for row in scores] == [
        (k, result["steps"]) for k, result in enumerate(record["finished"].values(), 1)
    ]


def test_callbacks_that_are_added_see_every_stage_and_removed_ones_none(tmp_path):
    class Other(Logs):
        pass

    class Given(Logs):
        pass

    run = trainer(
        quantized("mpq", budget="3bits"),
        tmp_path,
        num_train_epochs=1,
        callbacks=[Given, Other()],
        selection_examples=0,
        save_strategy="no",
        eval_dataset=sentences(8),
    )
    added = Logs()
    run.add_callback(added)
    given, _ = run.pop_callback(Given), run.remove_callback(PrinterCallback)
    other = next(one for one in run.callback_handler.callbacks if type(one) is Other)
    printed = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(PrinterCallback, "on_log", lambda *args, **kwargs: printed.append(args))
        run.train()
    assert not given.rows and not printed
    assert added.rows == other.rows and {row["stage"] for row in added.rows} == {1, 2}
    assert [row["stage"] for row in added.rows if "eval_loss" in row] == [1, 2]


def test_bits_of_precisions_that_were_never_open_are_logged(tmp_path):
    logs = Logs()
    trainer(quantized("uniform", bits=3), tmp_path, max_steps=5, callbacks=[logs]).train()
    assert {name: value for name, value in logs.rows[0].items() if name.startswith("bits/")} == {"bits/3": 1.0}


def test_a_run_without_a_method_takes_the_default_one(tmp_path):
    opened = quantized(None, bits=(2, 4), budget="3bits")
    assert trainer(opened, tmp_path / "a").method.name == "mpq"
    assert trainer(quantized(None, bits=4), tmp_path / "b").method.name == "uniform"


# The selection rule


def test_selection_takes_the_nearer_assignment_and_is_recorded(tmp_path, monkeypatch, capsys):
    """Without bars, as `disable_tqdm` says, though on a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    for first, chosen in ((0.1, "search"), (0.9, "training-free")):
        values = iter([first, 0.5])
        monkeypatch.setattr(selection, "mean_divergence", lambda *args, values=values: next(values))
        folder = tmp_path / chosen
        run = trainer(quantized("mpq", budget="3bits"), folder, num_train_epochs=1, save_strategy="no")
        run.train()
        record = json.loads((folder / "stages.json").read_text())["selection"]
        assert record == {"divergence": {"search": first, "training-free": 0.5}, "chosen": chosen}
        decided = hf_mpq.Assignment.load(folder / "assignment.json")
        free = run._preferences.assignment()
        assert (decided == free) == (chosen == "training-free")
    said = "".join(capsys.readouterr())
    assert "loss" in said and not any(word in said for word in ("gradients", "scoring", "lagrangian"))


class Stream(IterableDataset):
    """Rows without a length."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def test_a_selection_over_a_stream_takes_rows_that_nothing_was_trained_on(tmp_path, monkeypatch):
    rows, seen = list(sentences(96)), []
    for module in (parts, selection):
        monkeypatch.setattr(
            module,
            "batches_of",
            lambda part, *args, **options: (seen.append(part), batches_of(part, *args, **options))[1],
        )
    trainer(
        quantized("mpq", budget="3bits"),
        tmp_path,
        train_dataset=Stream(rows),
        max_steps=20,
        save_strategy="no",
        calibration_examples=16,
        selection_examples=8,
        stages={"search": {"strategy_options": {"learning_rate": 0.5}}},
    ).train()
    assert json.loads((tmp_path / "stages.json").read_text())["selection"]["chosen"]
    assert rows[:8] in seen and rows[8:24] in seen


def test_a_trial_is_a_tenth_of_its_own_stage(tmp_path):
    def steps(rows=640, stage=None, **options):
        args = arguments(tmp_path, stages={"qat": {"arguments": stage or {}}}, **options)
        return trial_steps(plan_of(METHODS["mpq"], args, True), args, 2, rows)

    assert steps(num_train_epochs=10) == 56
    assert steps(max_steps=100, rows=None) == 7
    assert steps(num_train_epochs=10, stage={"max_steps": 200}) == 20
    assert steps(max_steps=100, stage={"num_train_epochs": 5}) == 40
    assert steps(num_train_epochs=10, stage={"gradient_accumulation_steps": 2}) == 28
    assert steps(selection_steps=3) == 3


def test_selection_can_be_left_out(tmp_path):
    trainer(quantized("mpq", budget="3bits"), tmp_path, selection_examples=0).train()
    assert json.loads((tmp_path / "stages.json").read_text())["selection"] is None


# Checkpoints


def test_old_checkpoints_go_only_when_new_ones_are_whole(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            seen.append([path.name for path in complete_checkpoints(args.output_dir)])

    trainer(quantized("uniform"), tmp_path, callbacks=[Watch()], save_total_limit=1, save_steps=5).train()
    assert (
        seen
        == [["checkpoint-5"], ["checkpoint-10"], ["checkpoint-15"], ["checkpoint-20"], ["checkpoint-24"]][: len(seen)]
    )
    assert len(seen) >= 4


def stopped(tmp_path, step=7, **options):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resumable(quantized("ghost", budget="4bits", groups="matrix"), tmp_path, callbacks=[Stop()], **options).train()
    return complete_checkpoints(tmp_path / "1-qat")


def test_a_checkpoint_that_is_not_whole_is_not_used(tmp_path):
    found = stopped(tmp_path)
    assert [path.name for path in found] == ["checkpoint-3", "checkpoint-6"]
    (found[-1] / "complete").unlink()
    (found[-1] / "model.safetensors").write_bytes(b"half")
    trainer(quantized("ghost", budget="4bits", groups="matrix"), tmp_path).train(resume_from_checkpoint=True)


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path):
    checkpoint = stopped(tmp_path)[-1]
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("output.dense.weight"))
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"checkpoint-6 does not hold this model \(missing keys: {name}\)"):
        trainer(quantized("ghost", budget="4bits", groups="matrix"), tmp_path).train(resume_from_checkpoint=True)


def test_an_unexpected_tensor_is_refused(tmp_path):
    model = tiny_model("bert")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "bert.other": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"unexpected keys: bert\.other"):
        load_state(model, saved_state(tmp_path), tmp_path)


def test_parameters_of_objectives_are_kept_and_teachers_are_not(tmp_path):
    checkpoint = stopped(tmp_path)[-1]
    with safe_open(checkpoint / "objectives.safetensors", "pt") as file:
        assert any("switch" in name for name in file.keys())  # noqa: SIM118
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        assert not any("teacher" in name or "switch" in name for name in file.keys())  # noqa: SIM118


KILLED = """
import sys
from tests.training.runs import quantized, trainer
trainer(quantized("mpq", budget="3bits"), sys.argv[1], save_steps=2, num_train_epochs=6).train(
    resume_from_checkpoint=len(sys.argv) > 2)
"""


@pytest.mark.full
def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(tmp_path):
    command = ["-c", KILLED]
    whole = run_python([*command, tmp_path / "whole"])
    assert whole.returncode == 0, whole.stderr[-2000:]
    killed = start_python([*command, tmp_path / "killed"], tmp_path)
    while not complete_checkpoints(tmp_path / "killed" / "2-qat") and killed.is_alive():
        time.sleep(0.05)
    killed.kill()
    killed.join()
    again = run_python([*command, tmp_path / "killed", "resume"])
    assert again.returncode == 0, again.stderr[-2000:]
    for stage in ("1-search", "2-qat"):
        ours, theirs = (load_file(tmp_path / run / stage / "model/model.safetensors") for run in ("killed", "whole"))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# Ways to train

SAVED_ACTIVATIONS = next(
    field.name
    for field in fields(TrainingArguments)
    if field.name in ("activation_checkpointing", "gradient_checkpointing")
)
"""The name that this transformers has for it; the newer one comes first there."""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({SAVED_ACTIVATIONS: True}, marks=pytest.mark.full),
        {"bf16": True},
        {"eval_strategy": "steps", "eval_steps": 5},
        {"train_sampling_strategy": "group_by_length"},
    ],
)
def test_it_trains_with(options, tmp_path):
    run = trainer(
        quantized("aq-bert+kd", budget="3bits"),
        tmp_path,
        save_strategy="no",
        num_train_epochs=2,
        eval_dataset=sentences(16),
        **options,
    )
    assert 0 < run.train().training_loss < 10


@pytest.mark.full
def test_it_compiles(tmp_path):
    losses = [
        trainer(
            quantized("channelwise", groups="channel", budget="3bits"),
            tmp_path / str(k),
            save_strategy="no",
            num_train_epochs=1,
            **options,
        )
        .train()
        .training_loss
        for k, options in enumerate(({}, {"torch_compile_backend": "aot_eager"}))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("head", ["token", "masked"])
def test_every_head_is_distilled(head, tmp_path):
    model = quantized("mpq", head=head, budget="3bits")
    run = trainer(model, tmp_path, train_dataset=sentences(48, head), num_train_epochs=1, save_strategy="no")
    run.train()
    run.save_packed(tmp_path / "packed")
    batch = collate(list(sentences(4, head)))
    with torch.no_grad():
        packed = HEADS[head].from_pretrained(tmp_path / "packed").eval()
        torch.testing.assert_close(packed(**batch).logits, run.model.eval()(**batch).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", [family for family in MOST if family != "bert"])
def test_every_family_is_searched(family, tmp_path):
    run = trainer(quantized("mpq", family, budget="3bits"), tmp_path, num_train_epochs=1, save_strategy="no")
    run.train()
    assert hf_mpq.size_report(run.model).average_bits <= 3 + 1e-6


@pytest.mark.parametrize("reinit", ["finetuned", "random", "pretrained"])
def test_training_starts_anew_from(reinit, tmp_path):
    other = tiny_model("bert", num_hidden_layers=1)
    with torch.no_grad():
        other.bert.encoder.layer[0].output.dense.weight.fill_(0.25)
    other.save_pretrained(tmp_path / "pretrained")
    options = {
        "reinit": reinit,
        "pretrained": str(tmp_path / "pretrained"),
        "learning_rate": 1e-6,
        "stages": {name: {"arguments": {"learning_rate": 1e-6}} for name in ("search", "retrain")},
    }
    run = trainer(quantized("aq-bert"), tmp_path / "run", num_train_epochs=1, **options)
    run.train()
    weight = run.model.bert.encoder.layer[0].output.dense.weight
    loaded = tiny_model("bert", num_hidden_layers=1).bert.encoder.layer[0].output.dense.weight
    live = weight.abs().sum(1) > 0
    expected = {"finetuned": loaded, "pretrained": torch.full_like(loaded, 0.25)}.get(reinit)
    if expected is None:
        assert (weight - loaded)[live].abs().mean() > 0.01
    else:
        columns = weight.abs().sum(0) > 0
        torch.testing.assert_close(weight[live][:, columns], expected[live][:, columns], rtol=0, atol=1e-3)


def test_a_teacher_of_another_family_gets_what_only_it_reads(tmp_path):
    seen = {"student": set(), "teacher": set()}

    def noted(model, name):
        model.register_forward_pre_hook(lambda _, args, inputs: seen[name].update(inputs), with_kwargs=True)

    rows = sentences(48).map(lambda row: {"token_type_ids": [k % 2 for k in range(len(row["input_ids"]))]})

    def padded(rows):
        batch = collate(rows)
        if "token_type_ids" in rows[0]:
            types = [torch.tensor(row["token_type_ids"]) for row in rows]
            batch["token_type_ids"] = torch.nn.utils.rnn.pad_sequence(types, batch_first=True)
        return batch

    teacher = tiny_model("bert")
    noted(teacher, "teacher")
    with pytest.MonkeyPatch.context() as monkeypatch:
        start = Students.start

        def watched(self, *args):
            student = start(self, *args)
            noted(student, "student")
            return student

        monkeypatch.setattr(Students, "start", watched)
        trainer(
            quantized("mpq", "distilbert", budget="3bits"),
            tmp_path,
            teacher=teacher,
            train_dataset=rows,
            data_collator=padded,
            num_train_epochs=1,
            save_strategy="no",
            eval_dataset=rows.select(range(8)),
            eval_strategy="steps",
            eval_steps=2,
            stages={name: {"objectives": {"soft-labels": {}}} for name in ("search", "qat")},
        ).train()
    assert seen["teacher"] == {"input_ids", "attention_mask", "token_type_ids"}
    assert seen["student"] - {"return_dict", "labels", "num_items_in_batch"} == {"input_ids", "attention_mask"}


def test_a_compiled_model_gets_the_whole_batch():
    compiled = torch.compile(tiny_model("bert"), backend="eager")
    assert named_inputs(compiled, {"input_ids": 0, "idle": 1}) == {"input_ids": 0, "idle": 1}
    assert named_inputs(tiny_model("bert"), {"input_ids": 0, "idle": 1}) == {"input_ids": 0}


def test_a_penalty_is_not_rounded_by_mixed_precision(tmp_path, monkeypatch):
    seen = set()
    penalty = GateSearch.penalty

    def noted(self, usages, progress):
        seen.update(usage.bits.dtype for usage in usages.values())
        return penalty(self, usages, progress)

    monkeypatch.setattr(GateSearch, "penalty", noted)
    trainer(quantized("mpq", budget="3bits"), tmp_path, max_steps=4, bf16=True, selection_examples=0).train()
    assert seen == {torch.float32}


def test_another_teacher_is_used(tmp_path):
    losses = [
        trainer(quantized("uniform"), tmp_path / str(k), teacher=teacher, num_train_epochs=1, save_strategy="no")
        .train()
        .training_loss
        for k, teacher in enumerate((None, tiny_model("bert", num_hidden_layers=3)))
    ]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


# Arguments


def test_stages_are_changed_by_name_and_share_the_epochs(tmp_path):
    args = arguments(tmp_path, num_train_epochs=4, stages={"search": {"share": 1.0}, "qat": {"share": 3.0}})
    plan = plan_of(METHODS["mpq"], args, True)
    assert [one["num_train_epochs"] for one in shares(plan, args)] == [1.0, 3.0]
    args.max_steps = 10
    assert [one["max_steps"] for one in shares(plan, args)] == [2, 8]
    assert [stage.name for stage in plan_of(METHODS["mpq"], args, False)] == ["qat"]


def test_a_stage_sets_arguments_of_its_own_each_of_its_type(tmp_path):
    changes = {"learning_rate": "5e-4", "max_steps": "3", "lr_scheduler_type": "constant", "warmup_steps": "0.5"}
    seen = {}

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **kwargs):
            seen.setdefault(Path(args.output_dir).name, []).append(optimizer.param_groups[0]["lr"])

    trainer(
        quantized("aq-bert+kd"),
        tmp_path,
        num_train_epochs=1,
        callbacks=[Watch()],
        save_strategy="no",
        stages={"retrain": {"arguments": changes}},
    ).train()
    assert seen["2-retrain"] == [5e-4] * 3
    trainer(
        quantized("uniform"),
        tmp_path / "b",
        max_steps=40,
        callbacks=[Watch()],
        save_strategy="no",
        stages={"qat": {"arguments": {"num_train_epochs": 0.25}}},
    ).train()
    assert len(seen["1-qat"]) == 3, "its epochs count, and not its share of the run's steps"


def test_stages_are_read_from_a_command_line(tmp_path):
    (args,) = HfArgumentParser(MPQTrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--stages", '{"search": {"share": 0.5}}', "--use_cpu"]
    )
    assert plan_of(METHODS["mpq"], args, True)[0].share == 0.5


REFUSED = [
    ({"stages": {"serach": {}}}, {}, r"stages \['serach'\] are not in method 'mpq', which has: search, qat"),
    ({"stages": {"search": {"epochs": 1}}}, {}, r"stage 'search' has no \['epochs'\]"),
    ({"stages": {"qat": {"arguments": {"lr": 1}}}}, {}, r"sets \[.lr.\]; what a stage can set: learning_rate, "),
    ({"stages": {"qat": {"arguments": {"bf16": True}}}}, {}, r"sets \['bf16'\]; what a stage can set"),
    ({"stages": {"qat": {"arguments": {"load_best_model_at_end": True}}}}, {}, "best_model_at_end.*what a stage can"),
    ({"stages": {"qat": {"arguments": {"learning_rate": "fast"}}}}, {}, "'qat': learning_rate cannot be 'fast'"),
    ({"stages": {"qat": {"arguments": {"max_steps": 2.5}}}}, {}, r"'qat': max_steps cannot be 2.5 \(not a whole"),
    ({"stages": {"qat": {"arguments": {"optim": None}}}}, {}, "'qat': optim cannot be None"),
    ({"search_fraction": 1.5}, {}, "search_fraction must be between 0 and 1"),
    ({"label_smoothing_factor": 0.1}, {}, "stages do not follow label_smoothing_factor"),
    ({"save_only_model": True}, {}, "stages do not follow save_only_model"),
    ({"reinit": "fresh"}, {}, "reinit must be one of finetuned, pretrained, random"),
    ({"reinit": "pretrained"}, {}, "needs the model"),
    (
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3, "save_steps": 3},
        {},
        "dev set choose the model",
    ),
    ({}, {"optimizers": (object(), None)}, "has no optimizers"),
]


@pytest.mark.parametrize(("changes", "options", "words"), REFUSED)
def test_wrong_arguments_are_refused(changes, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        args = arguments(tmp_path, **changes)
        MPQTrainer(quantized("mpq", budget="3bits"), args, train_dataset=sentences(), **options)


def test_what_shards_a_model_is_refused_also_where_accelerate_launch_asks_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="stages run in one process or with DistributedDataParallel"):
        arguments(tmp_path)


def test_models_that_cannot_be_trained_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not quantized: load it with"):
        trainer(tiny_model("bert"), tmp_path)
    with pytest.raises(ValueError, match=r"call hf_mpq\.unpack"):
        trainer(hf_mpq.pack(quantized("uniform")), tmp_path)
    with pytest.raises(ValueError, match=r"needs no training: hf_mpq\.compress"):
        trainer(hf_mpq.quantize(tiny_model("bert"), MPQConfig(method="zeroquant")), tmp_path)
    with pytest.raises(ValueError, match="takes MPQTrainingArguments"):
        MPQTrainer(quantized("uniform"), TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"))


@pytest.mark.parametrize("method", ["q-bert", "mpq"])
def test_a_missing_budget_is_named(method, tmp_path):
    with pytest.raises(ValueError, match="budget"):
        trainer(quantized(method), tmp_path).train()


def test_a_folder_with_a_run_is_not_written_over(tmp_path):
    trainer(quantized("uniform"), tmp_path, num_train_epochs=1).train()
    with pytest.raises(ValueError, match="holds a run"):
        trainer(quantized("uniform"), tmp_path, num_train_epochs=1).train()
    with pytest.raises(ValueError, match='method was "uniform" and is now "q8"'):
        trainer(quantized("q8", groups="matrix"), tmp_path).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="is not in output_dir"):
        trainer(quantized("uniform"), tmp_path).train(resume_from_checkpoint="/elsewhere")


def test_a_run_without_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give the trainer a train_dataset"):
        trainer(quantized("uniform"), tmp_path, train_dataset=None).train()
    stages = {"qat": {"arguments": {"num_train_epochs": 1}}}
    with pytest.raises(ValueError, match=r"has no epochs: set max_steps in stages \['qat'\]"):
        trainer(quantized("uniform"), tmp_path, train_dataset=Stream([]), max_steps=4, stages=stages).train()
    with pytest.raises(ValueError, match="6 training examples are less than a step of 8"):
        trainer(quantized("uniform"), tmp_path, train_dataset=sentences(6), dataloader_drop_last=True).train()


def test_too_little_data_for_a_search_slice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="leave no room for a search slice"):
        trainer(quantized("aq-bert"), tmp_path, train_dataset=sentences(8)).train()


def test_gates_and_weights_move_only_in_their_own_passes(tmp_path):
    moved = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            assert isinstance(model, PreTrainedModel)
            self.before = {name: one.detach().clone() for name, one in model.named_parameters()}
            assert all(one.requires_grad for one in model.parameters())

        def on_step_end(self, args, state, control, model=None, **kwargs):
            changed = {name for name, one in model.named_parameters() if not torch.equal(one, self.before[name])}
            if "search" in args.output_dir:
                gates = any("gate" in name for name in changed)
                moved.append((gates, any("gate" not in name for name in changed)))

    stages = {"retrain": {"arguments": {"max_steps": 1}}}
    run = trainer(
        quantized("aq-bert", budget="3bits"), tmp_path, callbacks=[Watch()], num_train_epochs=4, stages=stages
    )
    run.train()
    assert set(moved) == {(False, True), (True, False), (False, False)}  # the last: slices before the gates' start
    assert moved.index((True, False)) > len(moved) // 2


def test_an_ordinary_trainer_still_refuses_a_packed_model(tmp_path):
    with pytest.raises(ValueError, match="quantiz"):
        Trainer(hf_mpq.pack(copy.deepcopy(quantized("uniform"))), TrainingArguments(str(tmp_path), report_to="none"))


def test_a_stage_checks_its_own_words():
    with pytest.raises(ValueError, match="a stage starts from one of"):
        StageSpec("qat", start="scratch")
