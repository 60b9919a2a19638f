"""The recipes' scripts over small made-up data: every YAML file runs."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from hf_mpq import MPQConfig
from hf_mpq.core import METHODS
from hf_mpq.tasks import TASKS
from tests.processes import run_python
from tests.recipes import RECIPES

SCRIPTS = {
    "sequence-classification": "run_glue.py",
    "question-answering": "run_squad.py",
    "token-classification": "run_ner.py",
}
SMALL = [
    "--per_device_train_batch_size",
    "4",
    "--num_train_epochs",
    "2",
    "--max_length",
    "48",
    "--save_steps",
    "500",
    "--calibration_examples",
    "8",
    "--selection_examples",
    "8",
    "--use_cpu",
    "--disable_tqdm",
    "true",
    "--logging_steps",
    "5",
    "--save_total_limit",
    "1",
]


FEW_SHAPES = {"tokens": 16, "measured": 5, "held_out": 1, "first": 2, "generations": 0, "target": 1e6, "window": 0}
STAGES = {"bigger-faster": {"supernet": {"strategy_options": FEW_SHAPES}}}
"""For models that read few tokens, of which few shapes are timed."""


def arguments(method, name, data_dir, checkpoint, out):
    return [
        str(RECIPES / "methods" / f"{method}.yaml"),
        str(RECIPES / "tasks" / f"{name}.yaml"),
        "--data_dir",
        str(data_dir),
        "--model_name_or_path",
        str(checkpoint(TASKS[name])),
        "--output_dir",
        str(out),
        *SMALL,
        *(["--stages", json.dumps(STAGES[method])] if method in STAGES else []),
    ]


def check(results, task, out):
    assert task.headline in results and results == json.loads((out / "results.json").read_text())
    assert (out / "packed" / "model.safetensors").exists() and (out / "packed" / "tokenizer.json").exists()


def files(folder, *always):
    """Names of a folder's files; those not in `always` only in the full run."""
    names = sorted(file.stem for file in (RECIPES / folder).glob("*.yaml"))
    return [name if name in always else pytest.param(name, marks=pytest.mark.full) for name in names]


def test_every_trained_method_and_every_task_has_a_file():
    methods = {name for name in METHODS if METHODS[name].stages}
    assert {file.stem for file in (RECIPES / "methods").glob("*.yaml")} == methods
    assert {file.stem for file in (RECIPES / "tasks").glob("*.yaml")} == {
        name for name, task in TASKS.items() if task.hub is not None
    }


@pytest.mark.parametrize("method", files("methods", "mpq", "channelwise"))
def test_every_method_runs(method, data_dir, checkpoint, tmp_path):
    from recipe import run

    results = run("sequence-classification", arguments(method, "sst2", data_dir, checkpoint, tmp_path))
    check(results, TASKS["sst2"], tmp_path)
    lower = (4, 3, 2) if method == "vertical" else ()
    assert [name for name in results if " at " in name] == [f"accuracy at {bits} bits" for bits in lower]
    assert yaml.safe_load((RECIPES / "methods" / f"{method}.yaml").read_text())["method"] == method


@pytest.mark.parametrize("name", files("tasks", "stsb", "squad", "conll2003"))
def test_every_task_runs(name, data_dir, checkpoint, tmp_path):
    from recipe import run

    results = run(TASKS[name].kind, arguments("q8", name, data_dir, checkpoint, tmp_path))
    check(results, TASKS[name], tmp_path)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "token-classification" else pytest.mark.full) for kind in SCRIPTS]
)
def test_the_scripts_start(kind):
    done = run_python([RECIPES / SCRIPTS[kind], "--help"])
    assert done.returncode == 0 and "--finetune_epochs" in done.stdout, done.stderr


@pytest.mark.full
def test_two_processes_are_launched(data_dir, checkpoint, tmp_path):
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        str(RECIPES / "run_glue.py"),
        *arguments("mpq", "sst2", data_dir, checkpoint, tmp_path),
        "--finetune_epochs",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    check(json.loads((tmp_path / "results.json").read_text()), TASKS["sst2"], tmp_path)


def test_a_run_is_taken_up_again_by_the_same_command(data_dir, checkpoint, tmp_path):
    from recipe import run

    command = arguments("uniform", "sst2", data_dir, checkpoint, tmp_path)
    first = run("sequence-classification", command)
    changed = (tmp_path / "1-qat" / "model" / "model.safetensors").stat().st_mtime_ns
    assert run("sequence-classification", command) == first
    assert (tmp_path / "1-qat" / "model" / "model.safetensors").stat().st_mtime_ns == changed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task: sst2\nmethod: mpq\nlerning_rate: 1.0e-4\n", "unknown arguments .*lerning_rate"),
        ("task: squad\nmethod: mpq\n", "this recipe is for sequence-classification: cola"),
        ("", "wrong.yaml has no lines such as"),
        (None, "there is no file .*wrong.yaml here; those that come with hf_mpq are copied by `hf-mpq recipes cp`"),
    ],
)
def test_wrong_files_are_refused(text, words, tmp_path):
    from recipe import read_arguments

    if text is not None:
        (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(SystemExit, match=words):
        read_arguments("sequence-classification", [str(tmp_path / "wrong.yaml"), "--model_name_or_path", "x"])


def test_a_config_on_the_command_line_is_json(tmp_path):
    from recipe import read_arguments

    given = ["--task", "sst2", "--model_name_or_path", "x", "--output_dir", str(tmp_path)]
    assert read_arguments("sequence-classification", [*given, "--config", '{"quantizer": "lsq"}'])[0].config == {
        "quantizer": "lsq"
    }
    assert read_arguments("sequence-classification", given)[0].config == {}
    with pytest.raises(SystemExit, match="--config is JSON, such as"):
        read_arguments("sequence-classification", [*given, "--config", "{bits: 4}"])


def test_a_float_model_that_was_fine_tuned_otherwise_is_not_taken(tmp_path):
    from recipe import FINE_TUNING, float_checkpoint, read_arguments

    (tmp_path / "float").mkdir()
    given = ["--task", "sst2", "--model_name_or_path", "x", "--output_dir", str(tmp_path), "--finetune_epochs", "1"]
    (tmp_path / "float" / FINE_TUNING).write_text('{"task": "sst2", "model_name_or_path": "y", "finetune_epochs": 1.0}')
    with pytest.raises(SystemExit, match="fine-tuned otherwise: model_name_or_path was y and is now x; max_length was"):
        float_checkpoint(None, *read_arguments("sequence-classification", given), None, None)


@pytest.mark.parametrize(
    "argv", [["--budget", "2bits", "--budget", "activations:9kB"], ["--budget", "2bits", "activations:9kB"]]
)
def test_several_budgets_replace_those_of_the_file(argv, tmp_path):
    from recipe import read_arguments

    file = tmp_path / "one.yaml"
    file.write_text("task: sst2\nmethod: fdq\nmodel_name_or_path: x\nbudget: 3bits\n")
    given = [str(file), "--output_dir", str(tmp_path)]
    assert MPQConfig(budget=read_arguments("sequence-classification", given)[0].budget) == MPQConfig(budget="3bits")
    assert read_arguments("sequence-classification", given + argv)[0].budget == ["2bits", "activations:9kB"]
