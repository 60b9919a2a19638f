"""An interrupted run ends as the uninterrupted one."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_mpq import Assignment

from .runs import quantized, trainer

RUNS = {
    "mpq": {"budget": "3bits"},
    "aq-bert": {"budget": "3bits"},
    "channelwise": {"budget": "3bits", "groups": "channel"},
    "ghost": {"budget": "4bits", "groups": "matrix"},
}


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
    return ["1-qat"] if method == "ghost" else ["1-search", {"mpq": "2-qat", "aq-bert": "2-retrain"}.get(
        method, "2-finetune")]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs, each made once."""
    made = {}

    def run(method):
        if method not in made:
            made[method] = tmp_path_factory.mktemp(method)
            trainer(quantized(method, **RUNS[method]), made[method]).train()
        return made[method]

    return run


@pytest.mark.parametrize("step", [2, 5, pytest.param(7, marks=pytest.mark.full)])
@pytest.mark.parametrize(("method", "stage"), [(method, stage) for method in RUNS for stage in stage_folders(method)])
def test_a_resumed_run_is_the_uninterrupted_one(method, stage, step, whole, tmp_path):
    model = quantized(method, **RUNS[method])
    with pytest.raises(Interrupted):
        trainer(model, tmp_path, callbacks=[Stop(stage, step)]).train()
    trainer(quantized(method, **RUNS[method]), tmp_path).train(resume_from_checkpoint=True)
    expected = whole(method)
    assert Assignment.load(tmp_path / "assignment.json") == Assignment.load(expected / "assignment.json")
    for folder in stage_folders(method):
        ours, theirs = weights_of(tmp_path / folder), weights_of(expected / folder)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (json.loads((folder / "stages.json").read_text()) for folder in (tmp_path, expected))
    assert ours["selection"] == theirs["selection"]
