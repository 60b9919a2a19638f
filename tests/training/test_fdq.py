"""FDQ, trained: quantizers move when they should, both budgets are met, and what is packed was trained."""

import json

import pytest
import torch
from transformers import TrainerCallback

import hf_mpq
from hf_mpq import Assignment
from hf_mpq.core import budgets_of
from hf_mpq.cost import limits_of
from hf_mpq.weights.roles import RANGES, STEPS, roles_in
from tests.training.runs import collate, quantized, sentences, trainer

BUDGETS = ["encoder:0.13x", "activations:1.5kB@1x11"]


def learned(model):
    """Steps and ranges of quantizers and gates, by stage of their use."""
    return [one.parameter for one in roles_in(model) if one.role in (STEPS, RANGES)]


class Moves(TrainerCallback):
    """Steps of each stage in which a step or a range changed, and whether momentum would have moved them besides."""

    def __init__(self):
        self.found, self.coasts = {}, {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.stage = args.output_dir.rpartition("-")[2]
        self.found[self.stage], self.before = [], [one.detach().clone() for one in learned(model)]

    def on_step_end(self, args, state, control, model=None, **kwargs):
        now = [one.detach().clone() for one in learned(model)]
        if any(not torch.equal(one, other) for one, other in zip(now, self.before, strict=True)):
            self.found[self.stage].append(state.global_step)
        self.before = now

    def on_train_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        """What gradients of zero, in the place of none, would do."""
        parts = optimizer.optimizer.parts
        for name in {"scales", "gate scales"} & set(parts):
            held = [one for group in parts[name].param_groups for one in group["params"]]
            before = [one.detach().clone() for one in held]
            for one in held:
                one.grad = torch.zeros_like(one)
            parts[name].param_groups[0]["lr"] = 0.01  # at the end of its schedule it is 0
            parts[name].step()
            self.coasts[self.stage, name] = any(not torch.equal(*pair) for pair in zip(held, before))
            for one, value in zip(held, before):
                one.data, one.grad = value, None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Eleven steps of search with a move at every fifth, two of fine-tuning; `test_resume.py` interrupts such a run."""
    folder, moves = tmp_path_factory.mktemp("fdq"), Moves()
    made = trainer(
        quantized("fdq", budget=BUDGETS),
        folder,
        callbacks=[moves],
        save_strategy="no",
        stages={
            "search": {"arguments": {"max_steps": 11}, "strategy_options": {"warmup": 0.0, "every": 5}},
            "finetune": {"arguments": {"max_steps": 2}},
        },
    )
    made.train()
    return made, folder, moves


def test_quantizers_move_at_steps_5_and_10_and_no_other(run):
    """Plain momentum fails: under gradients of zero it would go on in the next step."""
    moves = run[2]
    assert moves.found == {"search": [5, 10], "finetune": []}
    assert moves.coasts == {("search", "scales"): True, ("search", "gate scales"): True}


def test_both_budgets_are_met(run):
    made, folder, _ = run
    assignment = Assignment.load(folder / "assignment.json")
    limits = limits_of(made.model.hf_quantizer.space, budgets_of(BUDGETS))
    assert [limit.cost.of(assignment) <= limit.amount for limit in limits] == [True, True]
    assert [limit.cost.of(assignment) >= 0.8 * limit.amount for limit in limits] == [True, True]
    assert list(json.loads((folder / "stages.json").read_text())["finished"]) == ["search", "finetune"]


def test_what_is_packed_was_trained(run, tmp_path):
    """Each decided step is the range over its levels, in both."""
    made, _, _ = run
    model = made.model.eval()
    batch = collate(list(sentences(8)))
    del batch["labels"]
    for name, layer in hf_mpq.nn.walk.matrices(model):
        if layer.spec.role != "encoder":
            continue
        for bits, codes in layer.program.encode(layer.weight.float()).items():
            chosen = layer.program.gate.derive() == bits
            expected = layer.program.quantizer.range[chosen] / (2 ** (bits - 1) - 1)
            assert torch.equal(codes.floats.squeeze(1), expected.half().float()), name
    with torch.no_grad():
        trained = model(**batch).logits
        made.save_packed(tmp_path)
        packed = type(model).from_pretrained(tmp_path).eval()
        torch.testing.assert_close(packed(**batch).logits, trained, rtol=1e-4, atol=1e-5)
