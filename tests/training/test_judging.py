"""Searches get a judge of the live model; activation bits are decided with all else, applied and saved."""

from dataclasses import replace

import pytest
import torch

import hf_mpq
from hf_mpq import Assignment
from hf_mpq.search.strategies import STRATEGIES, Alternating
from tests.plugin.models import reload
from tests.training.runs import quantized, trainer

RULES = {"output": {"activation_bits": 5}, "pooler": {"activation_bits": None}}


def test_channelwise_with_a_judge_of_activation_bits(tmp_path, monkeypatch):
    """What its config says of them is in the assignment; what is decided of them is what is trained and shipped."""
    seen = {}

    class Judging(Alternating):
        """Takes 7 bits for the inputs that had 8, after looking at 2."""

        def derive(self, model, judge=None):
            model, found = super().derive(model, judge)
            state = {name: value.clone() for name, value in model.state_dict().items()}
            finer, coarse = (
                replace(found, activation_bits={name: min(b, bits) for name, b in found.activation_bits.items()})
                for bits in (7, 2)
            )
            seen.update(found=found, finer=finer, damages=[judge.damage(one) for one in (found, finer, coarse)])
            assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
            with pytest.raises(ValueError, match="trains nothing"):
                judge.trained_damage(found)
            return model, finer

    monkeypatch.setitem(STRATEGIES._items, "alternating", Judging)
    model = quantized("channelwise", budget="3bits", activation_bits=8, rules=RULES)
    run = trainer(model, tmp_path, num_train_epochs=1, save_strategy="no")
    run.train()
    expected = {name: 5 if "output" in name else 8 for name in seen["found"].matrices if name.startswith("encoder")}
    assert seen["found"].activation_bits == expected
    found, finer, coarse = seen["damages"]
    assert found >= 0 and finer != found and coarse > max(found, finer)
    decided = seen["finer"]
    assert Assignment.load(tmp_path / "assignment.json") == decided
    assert hf_mpq.assignment_of(run.model) == decided
    run.save_packed(tmp_path / "small")
    assert hf_mpq.assignment_of(reload(tmp_path / "small")) == decided
