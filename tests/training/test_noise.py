"""The noise of a search and the scaling of its gradients: both a matter of the optimizer step."""

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_mpq.training.stage.joint_optimizer import JointOptimizer
from hf_mpq.training.stage.scaler import IdleStepScaler
from hf_mpq.training.stage.trainer import StageTrainer
from tests.training.runs import quantized, resumable, trainer

SEARCH = {"retrain": {"arguments": {"max_steps": 1}}}
"""What is looked at is over when the search is."""


class Mixtures(TrainerCallback):
    """What the first gate mixes with in every step of the search, seen in its micro-batches."""

    def __init__(self):
        self.steps = {}

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if args.output_dir.endswith("search"):
            gate = model.bert.encoder.layer[0].output.dense.program.gate
            noise = [(gate.train()().probabilities.log() * gate.temperature - gate.logits).detach() for _ in range(2)]
            assert torch.equal(*noise)
            self.steps[state.global_step] = noise[0] - noise[0][:, :1]

    on_substep_end = on_step_begin


def noise_of(folder, seed=0, resume=False, stop=None, **options):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == stop:
                raise KeyboardInterrupt

    seen = Mixtures()
    run = resumable(
        quantized("aq-bert", budget="3bits"), folder, callbacks=[seen, Stop()], seed=seed, stages=SEARCH, **options
    )
    if stop is None:
        run.train(resume_from_checkpoint=resume)
    else:
        with pytest.raises(KeyboardInterrupt):
            run.train()
    return seen.steps


def same(first, second):
    return all(torch.allclose(first[step], second[step], atol=1e-4) for step in first.keys() & second.keys())


def test_noise_depends_on_seed_and_step_and_outlives_an_interruption(tmp_path):
    plain = noise_of(tmp_path / "plain")
    assert len(plain) == 12 and not torch.allclose(plain[0], plain[1], atol=0.1)
    assert same(noise_of(tmp_path / "more", gradient_accumulation_steps=4, per_device_train_batch_size=2), plain)
    assert not same(noise_of(tmp_path / "other", seed=1), plain)
    assert noise_of(tmp_path / "resumed", stop=5)
    again = noise_of(tmp_path / "resumed", resume=True)
    assert min(again) == 3 and max(again) == 11 and same(again, plain)


def test_a_scaled_step_without_a_gradient_moves_nothing_and_the_next_one_does():
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    parts = {name: torch.optim.SGD([one], 0.5) for name, one in zip(("weights", "gates"), parameters)}
    scaler = IdleStepScaler(torch.device("cpu"))
    optimizer = JointOptimizer(parts)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert all(one.eq(1).all() for one in parameters)
    scaler.scale(parameters[1].sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert parameters[0].eq(1).all() and parameters[1].eq(0.5).all()
    parameters[1].grad = torch.full((3,), torch.inf)
    scaler.step(optimizer)
    scaler.update()
    assert parameters[1].eq(0.5).all() and scaler.get_scale() == 2.0**15


def test_scaled_gradients_train_as_plain_ones(tmp_path, monkeypatch):
    """A search with idle steps; the scale is a power of two, so that nothing is rounded."""
    weights, make = [], StageTrainer.create_accelerator_and_postprocess

    def scaled(self):
        make(self)
        self.accelerator.scaler = IdleStepScaler(self.accelerator.device)

    for change in (False, True):
        if change:
            monkeypatch.setattr(StageTrainer, "create_accelerator_and_postprocess", scaled)
        folder = tmp_path / str(change)
        run = trainer(
            quantized("aq-bert", budget="3bits"),
            folder,
            max_grad_norm=0.0,
            num_train_epochs=4,
            stages=SEARCH,
            save_strategy="no",
            callbacks=[Idle()],
        )
        run.train()
        weights.append(load_file(folder / "1-search" / "model" / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class Idle(TrainerCallback):
    """Sees that the search has a step in which nothing gets a gradient, and that the schedule goes on there."""

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        assert isinstance(optimizer, AcceleratedOptimizer)
        self.idle = all(one.grad is None for one in model.parameters())

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        self.seen = getattr(self, "seen", False) or (self.idle and not optimizer.step_was_skipped)

    def on_train_end(self, args, state, control, **kwargs):
        assert self.seen or not args.output_dir.endswith("search")
