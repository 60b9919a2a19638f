"""A gate that draws does so once per step: all micro-batches and passes share it."""

from itertools import pairwise
from math import log

import pytest
import torch
from transformers import TrainerCallback

from hf_mpq.nn.walk import matrices
from tests.training.runs import quantized, sentences, trainer


class Draws(TrainerCallback):
    """What every forward pass in training got of its gates, by step of the first stage."""

    def __init__(self):
        self.found, self.rates = {}, []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        for name, layer in matrices(model) if "/1-" in args.output_dir else ():
            if layer.program.gate.searching:
                layer.program.gate.register_forward_hook(self.keep(name))

    def keep(self, name):
        def hook(gate, args, choice):
            self.found.setdefault(self.step, {}).setdefault(name, []).append(choice.probabilities.detach().clone())

        return hook

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        self.step = state.global_step
        if "/1-" in args.output_dir:
            self.rates += [group["lr"] for group in optimizer.param_groups if group.get("group") == "gates"]


def test_micro_batches_share_the_draw_and_steps_do_not(tmp_path):
    record = Draws()
    trainer(
        quantized("sdq", budget="3bits"),
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        callbacks=[record],
        stages={"search": {"arguments": {"max_steps": 8}}, "qat": {"arguments": {"max_steps": 1}}},
        train_dataset=sentences(64),
        selection_examples=0,
        save_strategy="no",
    ).train()
    assert record.rates == [pytest.approx(2 * 5 * log(36) / 8)] * 8, "the strategy's for 8 steps, on no schedule"
    assert sorted(record.found) == list(range(8))
    for step in record.found.values():
        for drawn in step.values():
            assert len(drawn) == 4 and all(torch.equal(one, drawn[0]) for one in drawn)
            assert set(drawn[0].flatten().tolist()) == {0.0, 1.0}
    of_steps = [torch.cat([drawn[0].flatten() for drawn in step.values()]) for step in record.found.values()]
    assert all(not torch.equal(one, other) for one, other in pairwise(of_steps))
