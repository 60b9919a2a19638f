"""ADMM in a stage: what it leaves alone, what it pulls, and its sums after an interruption."""

import pytest
import torch
from transformers import TrainerCallback

from hf_mpq.nn.walk import matrices
from hf_mpq.search.schedules.admm import ADMM
from hf_mpq.training import TrainingStopped
from tests.training.runs import quantized, resumable, sentences

STEPS = 6


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def run_of(folder, mask="n:m", rho=1e-3, **options):
    schedules = {"admm": {"rho": rho, "every": 2}} if mask else {}
    return resumable(
        quantized(bits=4, mask=mask),
        folder,
        max_steps=STEPS,
        stages={"qat": {"schedules": schedules}},
        train_dataset=sentences(32),
        **options,
    )


def masters(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def states(monkeypatch):
    """The dual variables of the matrices before every end of a stage."""
    found, finish = [], ADMM.finish
    monkeypatch.setattr(ADMM, "finish", lambda self, model: (found.append(dict(self.dual)), finish(self, model)))
    return found


def test_without_a_penalty_it_is_plain_training_update_for_update(tmp_path):
    plain, free = run_of(tmp_path / "plain", mask=None), run_of(tmp_path / "free", rho=0)
    plain.train(), free.train()
    ours, theirs = masters(free.model), masters(plain.model)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_penalty_pulls_the_weights_to_their_masks(tmp_path):
    far = {}
    for rho in (0, 10.0):
        run = run_of(tmp_path / str(rho), rho=rho, logging_steps=STEPS, learning_rate=1e-2)
        run.train()
        far[rho] = next(one["primal_residual"] for one in reversed(run.state.log_history) if "primal_residual" in one)
        assert all(
            ((layer.float_weight() != 0).unflatten(1, (-1, 4)).sum(-1) == 2).all()
            for _, layer in matrices(run.model)
            if layer.program.mask is not None
        )
    assert 0 < far[10.0] < 0.9 * far[0]


def test_sums_go_on_bit_for_bit_after_an_interruption(tmp_path, monkeypatch):
    found = states(monkeypatch)
    run_of(tmp_path / "whole").train()
    with pytest.raises(TrainingStopped):
        run_of(tmp_path / "cut", callbacks=[StopAfter(3)]).train()
    run_of(tmp_path / "cut").train(resume_from_checkpoint=True)
    whole, resumed = found
    assert whole and whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) and whole[name].any() for name in whole)
