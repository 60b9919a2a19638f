"""Every kind of head, an energy budget, the teacher's place, and two processes that are interrupted."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback

import hf_mpq
from hf_mpq import Assignment, MPQConfig
from hf_mpq.cost import COSTS, limits_of
from hf_mpq.runs.checkpoints import complete_checkpoints
from hf_mpq.runs.reader import read_run
from tests.processes import start_python
from tests.tiny import HEADS, tiny_model
from tests.training.runs import PADDING, collate, quantized, sentences, trainer


def spans() -> Dataset:
    """The sentences, with an answer from the second token to the third."""
    rows = sentences(48).remove_columns("labels").to_list()
    return Dataset.from_list([{**row, "start_positions": 1, "end_positions": 2} for row in rows])


def scores() -> Dataset:
    """The sentences, with a real number for each."""
    return Dataset.from_list([{**row, "labels": row["input_ids"][1] / 50} for row in sentences(48).to_list()])


def padded(rows):
    """Padded batch whose other columns are one number for each row."""
    tokens = collate([{key: row[key] for key in ("input_ids", "attention_mask")} for row in rows])
    return {**tokens, **{name: torch.tensor([row[name] for row in rows]) for name in rows[0] if name not in tokens}}


@pytest.mark.parametrize(
    ("head", "rows", "changes"),
    [
        ("question", spans, {}),
        ("sequence", scores, {"num_labels": 1, "problem_type": "regression"}),
    ],
)
@pytest.mark.parametrize("method", ["mpq", "q8"])
def test_answers_and_numbers_are_learned(method, head, rows, changes, tmp_path):
    """With the labels (q8) and from the teacher (mpq); what is packed says the same."""
    budget = {"budget": "3bits"} if method == "mpq" else {}
    model = hf_mpq.quantize(tiny_model("bert", head, **changes), MPQConfig(method=method, groups=8, **budget))
    logs = Losses()
    run = trainer(
        model,
        tmp_path,
        train_dataset=rows(),
        data_collator=padded,
        num_train_epochs=4,
        callbacks=[logs],
        save_strategy="no",
        eval_dataset=rows(),
        logging_steps=1,
    )
    run.train()
    assert sum(logs.last[-6:]) < sum(logs.last[:6]), "the last stage's loss falls"
    run.save_packed(tmp_path / "packed")
    packed, batch = HEADS[head].from_pretrained(tmp_path / "packed").eval(), padded(rows().to_list()[:8])
    del batch["idle"]
    with torch.no_grad():
        ours, theirs = run.model.eval()(**batch), packed(**batch)
    for name in (name for name in ours if name == "loss" or name.endswith("logits")):
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-4, atol=1e-5)
    assert ours.loss.isfinite() and (batch["input_ids"] == PADDING).any()


class Losses(TrainerCallback):
    """Losses of the stage that was trained last."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.last = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.last.append(logs["loss"])


@pytest.mark.parametrize("method", ["channelwise", "mpq"])
def test_an_energy_budget_is_met(method, tmp_path):
    options = {"bits": (2, 4, 8), "activation_bits": 8, "layers": 1}
    model = quantized(method, budget=None, **options)
    space = model.config.quantization_config.resolve(model)
    cost = COSTS["energy"](space)
    least, most = (
        cost.of(
            Assignment(
                {
                    name: hf_mpq.core.MatrixAssignment((bits,) * spec.layout.count if spec.bits is None else spec.bits)
                    for name, spec in space.weights.items()
                }
            )
        )
        for bits in (2, 8)
    )
    limit = least + 0.5 * (most - least)
    run = trainer(quantized(method, budget=f"{limit}uJ", **options), tmp_path, num_train_epochs=1, save_strategy="no")
    run.train()
    assert least < cost.of(hf_mpq.plugin.assignment_of(run.model)) <= limit * (1 + 1e-6)


def test_the_teacher_is_in_no_optimizer_and_no_checkpoint(tmp_path):
    teacher = tiny_model("bert", num_hidden_layers=3)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, model=None, **kwargs):
            held = {id(one) for group in optimizer.param_groups for one in group["params"]}
            assert held == {id(one) for one in model.parameters()}
            assert not held & {id(one) for one in teacher.parameters()}
            assert all(one.grad is None for one in teacher.parameters())
            seen.append(state.global_step)

    run = trainer(quantized("mpq", budget="3bits"), tmp_path, teacher=teacher, callbacks=[Watch()], num_train_epochs=1)
    assert run.train().global_step == len(seen) and not teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    checkpoints = [one for stage in ("1-search", "2-qat") for one in complete_checkpoints(tmp_path / stage)]
    for folder in checkpoints:
        files = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
        names = [name for path in files for name in load_file(path)]
        assert names and not any("teacher" in name or "layer.2." in name for name in names), "a third layer"
        saved = torch.load(folder / "optimizer.pt", weights_only=True)
        count = sum(len(group["params"]) for part in saved.values() for group in part["param_groups"])
        assert count <= len(list(quantized("mpq", budget="3bits").parameters()))
    assert checkpoints


TWO = """
import sys
from transformers import TrainerCallback
from tests.training.runs import quantized, trainer

class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if sys.argv[2] in args.output_dir and state.global_step == 5:
            sys.exit(3)

trainer(quantized(sys.argv[3], budget="3bits"), sys.argv[1], callbacks=[Stop()], per_device_train_batch_size=4,
        save_steps=2).train(resume_from_checkpoint=len(sys.argv) > 4)
"""


@pytest.mark.full
@pytest.mark.parametrize(("method", "stage"), [("aq-bert", "1-search"), ("mpq", "2-qat")])
def test_two_processes_are_resumed(method, stage, tmp_path):
    (tmp_path / "run.py").write_text(TWO)
    root = Path(__file__).resolve().parents[2]

    def launch(name, stop, *words):
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            str(tmp_path / "run.py"),
            str(tmp_path / name),
            stop,
            method,
            *words,
        ]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        return subprocess.run(command, cwd=root, capture_output=True, text=True, env=env)

    whole = launch("whole", "nowhere")
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert launch("stopped", stage).returncode != 0
    assert complete_checkpoints(tmp_path / "stopped" / stage)
    again = launch("stopped", "nowhere", "resume")
    assert again.returncode == 0, again.stderr[-3000:]
    for folder in ("1-search", {"mpq": "2-qat", "aq-bert": "2-retrain"}[method]):
        ours, theirs = (load_file(tmp_path / run / folder / "model/model.safetensors") for run in ("stopped", "whole"))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


DYING = """
import os, sys
from transformers import TrainerCallback
from tests.training.runs import quantized, trainer

class Die(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if os.environ["RANK"] == "1" and state.global_step == 2:
            os._exit(3)

trainer(quantized("mpq", budget="3bits"), sys.argv[1], callbacks=[Die()], per_device_train_batch_size=4).train()
"""


@pytest.mark.full
def test_a_rank_that_dies_ends_the_other(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
        }
    ranks = []
    for rank in ("0", "1"):
        (tmp_path / rank).mkdir()
        environment = {**os.environ, **address, "RANK": rank, "LOCAL_RANK": rank}
        ranks.append(start_python(["-c", DYING, tmp_path / "run"], tmp_path / rank, environment))
    for process in ranks:
        process.join()
    assert ranks[1].exitcode == 3, (tmp_path / "1" / "stderr").read_text()[-2000:]
    assert ranks[0].exitcode == 1 and "Traceback" in (tmp_path / "0" / "stderr").read_text()


def test_two_budgets_are_met_and_logged(tmp_path):
    """Bytes of weights and of activations, whose bits are open; what is shipped keeps both."""
    budget = ["encoder:0.15x", "activations:0.16x@1x16"]
    model = quantized("mpq", budget=budget, activation_bits=(4, 8), attention_bits=8)
    run = trainer(model, tmp_path, num_train_epochs=1, logging_steps=1)
    run.train()
    shown = [row for row in run.state.log_history if "cost/encoder" in row]
    assert {"cost", "cost/encoder", "cost/activations", "expected_cost/activations"} <= set(shown[0])
    assert all(row["cost"] == row["cost/encoder"] for row in shown)
    space = model.config.quantization_config.resolve(tiny_model("bert", num_hidden_layers=1))
    limits = limits_of(space, model.config.quantization_config.budgets)
    assert [limit.cost.what for limit in limits] == ["encoder", "activations"]
    for limit in limits:
        assert 0.5 * limit.amount < limit.cost.of(hf_mpq.assignment_of(run.model)) <= limit.amount
        assert limit.cost.of(hf_mpq.assignment_of(run.model)) == shown[-1][f"cost/{limit.cost.what}"]
    assert read_run(tmp_path).budget == " + ".join(budget)
