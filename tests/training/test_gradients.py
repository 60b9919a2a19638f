"""One process, two processes and accumulation: the same losses, gradients and weights."""

import os
import socket

import pytest
import torch
from torch import multiprocessing
from transformers import TrainerCallback

from .runs import quantized, sentences, trainer

STEPS = 4
FIRST, CLOSE = 1e-4, 0.03
"""How near the first step's gradients are, and those of later ones: there Adam has turned rounding errors of tiny
gradients into whole steps, which now and then move an activation to the next code."""
CASES = {
    "mpq": {"budget": "3bits"},
    "aq-bert": {"budget": "3bits"},
    "channelwise": {"budget": "3bits", "groups": "channel"},
    "class-based": {"bits": 3},
    "q8": {"head": "token"},
    "uniform": {"bits": 3, "head": "masked"},
}


class Record(TrainerCallback):
    """Keeps every step's gradients and losses of the first stage: after it, two runs may differ by a code here or there
    that one of them rounded the other way."""

    def __init__(self):
        self.gradients, self.logs = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if "/1-" in args.output_dir:
            self.gradients.append({name: None if one.grad is None else one.grad.clone()
                                   for name, one in model.named_parameters()})  # fmt: skip

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs and "/1-" in args.output_dir:
            self.logs.append({name: value for name, value in logs.items() if name.startswith("loss")})


def still(model):
    """The model without dropout, which draws other masks for other batches."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    return model


def recorded(method, folder, batch, accumulation):
    record, options = Record(), dict(CASES[method])
    head = options.get("head", "sequence")
    stages = {"search": {"strategy_options": {"warmup": 0.0}}} if method == "channelwise" else None
    run = trainer(still(quantized(method, **options)), folder, per_device_train_batch_size=batch, logging_steps=1,
                  gradient_accumulation_steps=accumulation, callbacks=[record], learning_rate=1e-4, stages=stages,
                  train_dataset=sentences(STEPS * 8 if method != "mpq" else 64, head), num_train_epochs=2,
                  save_strategy="no")  # fmt: skip
    run.train()
    return record.gradients, record.logs


def _process(rank, port, method, folder):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank),
                      WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")  # fmt: skip
    found = recorded(method, folder, 4, 1)
    torch.save(found, f"{folder}/rank{rank}.pt")


def two_processes(method, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_process, (port, method, str(folder)), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def assert_same(found, expected):
    assert len(found[0]) == len(expected[0])
    for step, (ours, theirs) in enumerate(zip(found[0], expected[0])):
        assert ours.keys() == theirs.keys()
        close = CLOSE if step else FIRST
        for name, gradient in theirs.items():
            if gradient is None:
                assert ours[name] is None, name
            else:
                assert (ours[name] - gradient).norm() <= close * gradient.norm() + 1e-6, (step, name)
    for ours, theirs in zip(found[1], expected[1]):
        assert ours == pytest.approx(theirs, rel=CLOSE, abs=1e-5)


@pytest.mark.parametrize("accumulation", [2, 4])
@pytest.mark.parametrize("method", CASES)
def test_accumulated_gradients_are_those_of_the_batch(method, accumulation, tmp_path):
    expected = recorded(method, tmp_path / "one", 8, 1)
    assert any(gradient is not None for gradient in expected[0][0].values())
    assert_same(recorded(method, tmp_path / "more", 8 // accumulation, accumulation), expected)


@pytest.mark.parametrize("method", ["mpq", "aq-bert", pytest.param("channelwise", marks=pytest.mark.full),
                                    pytest.param("q8", marks=pytest.mark.full)])  # fmt: skip
def test_two_processes_train_as_one(method, tmp_path):
    expected = recorded(method, tmp_path / "one", 8, 1)
    folder = tmp_path / "two"
    folder.mkdir()
    first, second = two_processes(method, folder)
    assert_same(first, expected)
    assert_same(second, expected)
