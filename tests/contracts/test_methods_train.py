"""Every method that trains: two steps of each of its stages move all that its modules declare as learned."""

import pytest
from transformers import TrainerCallback

from hf_mpq.core import METHODS
from hf_mpq.core.registry import options_of
from hf_mpq.search.strategies import STRATEGIES
from hf_mpq.weights.roles import OFFSETS, RANGES, STEPS, WEIGHTS, roles_in
from tests.training.runs import quantized, sentences, trainer

TRAINED = {name: METHODS[name].stages for name in METHODS if METHODS[name].stages}
OPEN = {name for name in TRAINED if isinstance(METHODS[name].config["bits"], tuple) and name != "vertical"}
CONFIGS = {name: {"budget": "3bits"} if name in OPEN else {} for name in TRAINED}
CONFIGS["channelwise"]["bits"] = (2, 4, 8)  # with 0 so short a search prunes whole matrices, which then rest
CONFIGS["nxmiformer"]["rules"] = {r"\.\d+\.(att|int|out)": {"tie": r"\1"}}  # few assignments to measure
OPTIONS = {
    "warmup": 0.0,
    "every": 1,
    "tokens": 8,
    "measured": 5,
    "held_out": 1,
    "target": 1e6,
    "window": 0.0,
    "draws": 1,
}
"""Of strategies that have them: everything moves in two steps."""
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

    Some step of every precision of a nested matrix must move. Offsets and ranges rest while nothing is clipped: it is
    enough that one moves. So does what a stage does not train.
    """

    def __init__(self, stages):
        self.found = {}
        self.trainable = {f"{k}-{stage.name}": stage.trainable for k, stage in enumerate(stages, 1)}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.before = {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}

    def on_train_end(self, args, state, control, model=None, **kwargs):
        roles, folder = {id(one.parameter): one.role for one in roles_in(model)}, args.output_dir.rpartition("/")[2]
        trainable, moves, clipping = self.trainable.get(folder), {}, []
        for name, one in model.named_parameters():
            if name not in self.before:  # a copy of what a source holds
                continue
            role, changed = roles.get(id(one), WEIGHTS), one.detach() != self.before[name]
            if trainable is not None and role not in trainable:
                assert not changed.any(), name
                continue
            if role in (OFFSETS, RANGES):
                clipping.append(bool(changed.any()))
            nested = role == STEPS and name.endswith("quantizer.scale")
            moves[name] = bool(changed.any(0).all() if nested else changed.any()) or role in (OFFSETS, RANGES)
        still = [name for name, moved in moves.items() if not moved]
        self.found[folder] = still + ["offsets and ranges"] * (bool(clipping) and not any(clipping))


def options_for(strategy):
    """Those of the above that a strategy has."""
    return {name: value for name, value in OPTIONS.items() if name in options_of(STRATEGIES[strategy])}


@pytest.fixture(autouse=True)
def quick_measurements(monkeypatch, tmp_path):
    """Of how long shapes take, which moves nothing."""
    monkeypatch.setattr("hf_mpq.runtime.timing.SECONDS", 0.02)
    monkeypatch.setenv("HF_MPQ_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", RUNS)
def test_two_steps_of_every_stage_move_what_is_declared(name, tmp_path):
    method, config = RUNS[name]
    stages = {
        stage.name: {
            "arguments": {**stage.arguments, "max_steps": 2},
            **({"strategy_options": options_for(stage.strategy)} if stage.strategy else {}),
        }
        for stage in TRAINED.get(method, ())
    }
    record, length = Still(TRAINED.get(method, ())), {} if stages else {"max_steps": 2}
    run = trainer(
        quantized(method, **config),
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
