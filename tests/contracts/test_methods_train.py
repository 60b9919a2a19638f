"""Every method that trains: two steps of each of its stages move all that its modules declare as learned."""

import pytest
from transformers import TrainerCallback

from hf_mpq.core import METHODS
from hf_mpq.weights.roles import OFFSETS, STEPS, roles_in
from tests.training.runs import quantized, sentences, trainer

TRAINED = {name: METHODS[name].stages for name in METHODS if METHODS[name].stages}
OPEN = {name for name in TRAINED if isinstance(METHODS[name].config["bits"], tuple) and name != "vertical"}
CONFIGS = {name: {"budget": "3bits"} if name in OPEN else {} for name in TRAINED}
CONFIGS["channelwise"]["bits"] = (2, 4, 8)  # with 0 so short a search prunes whole matrices, which then rest
RUNS = {
    **{name: (name, CONFIGS[name]) for name in TRAINED},
    "learned ranges": ("uniform", {"activation": "learned"}),
    "open inputs": ("mpq", {"budget": "3bits", "bits": (2, 4), "activation_bits": (4, 8), "activation": "learned"}),
    "inputs alone": ("mpq", {"bits": 4, "gate": "fixed", "activation_bits": (4, 8), "budget": "4bits"}),
    "nested": ("uniform", {"bits": (2, 4, 8), "nested": True, "switchable_norms": True}),
    "unit rows": ("uniform", {"transforms": {"unit-rows": {}}}),
}


class Still(TrainerCallback):
    """Names of what stood still in each stage.

    Some step of every precision of a nested matrix must move. Offsets of ranges rest while nothing is clipped: it is
    enough that one moves.
    """

    def __init__(self):
        self.found = {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.before = {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}

    def on_train_end(self, args, state, control, model=None, **kwargs):
        roles = {id(one.parameter): one.role for one in roles_in(model)}
        moves, offsets = {}, []
        for name, one in model.named_parameters():
            role, changed = roles.get(id(one)), one.detach() != self.before[name]
            if role == OFFSETS:
                offsets.append(bool(changed.any()))
            nested = role == STEPS and name.endswith("quantizer.scale")
            moves[name] = bool(changed.any(0).all() if nested else changed.any()) or role == OFFSETS
        still = [name for name, moved in moves.items() if not moved]
        self.found[args.output_dir.rpartition("/")[2]] = still + ["offsets"] * (bool(offsets) and not any(offsets))


@pytest.mark.parametrize("name", RUNS)
def test_two_steps_of_every_stage_move_what_is_declared(name, tmp_path):
    method, config = RUNS[name]
    stages = {
        stage.name: {
            "arguments": {**stage.arguments, "max_steps": 2},
            **({"strategy_options": {"warmup": 0.0}} if "warmup" in stage.strategy_options else {}),
        }
        for stage in TRAINED.get(method, ())
    }
    record, length = Still(), {} if stages else {"max_steps": 2}
    run = trainer(
        quantized(method, layers=1, **config),
        tmp_path,
        stages=stages or None,
        callbacks=[record],
        train_dataset=sentences(32),
        selection_examples=0,
        save_strategy="no",
        **length,
    )
    run.train()
    assert len(record.found) == len(run.plan) >= 1
    assert record.found == {stage: [] for stage in record.found}
