"""One process, two processes and accumulation: the same losses, gradients and weights."""

import os
import socket
from functools import cache

import pytest
import torch
from torch import multiprocessing
from transformers import TrainerCallback

import hf_mpq
from hf_mpq.nn.walk import is_open
from hf_mpq.search.strategies import GATE_PARAMETERS, STRATEGIES, Bilevel, Pass
from tests.processes import FORKED
from tests.training.runs import quantized, sentences, trainer

STEPS = 4
FIRST, CLOSE = 1e-4, 0.03
"""How near the first step's gradients are, and those of later ones: there Adam has turned rounding errors of tiny
gradients into whole steps, which now and then move an activation to the next code."""
CASES = {
    "mpq": {"budget": "3bits"},
    "aq-bert": {"budget": "3bits"},
    "channelwise": {"budget": "3bits", "groups": "channel"},
    "sdq": {"budget": "3bits"},
    "fdq": {"budget": "3bits", "quantizer_options": {}, "activation": "dynamic-token", "activation_bits": 8},
    "class-based": {"bits": 3},
    "q8": {"head": "token"},
    "hyperspherical": {"groups": "channel"},
    "uniform": {"bits": 3, "head": "masked"},
    "weight-coupling": {"budget": "3bits", "groups": "matrix"},
    "vertical": {},
    "prune-ofa-pretrain": {"head": "masked", "layers": 1},
    "bigger-faster": {"layers": 2},
    "channel-expansion": {"budget": "2bits", "groups": 6},
}
STAGES = {
    "channelwise": {"search": {"strategy_options": {"warmup": 0.0}}},
    "fdq": {"search": {"strategy_options": {"warmup": 0.0, "every": 1}}},
    "channel-expansion": {"search": {"strategy_options": {"warmup": 0.0, "every": 1, "threshold": 1.01}}},
    "bigger-faster": {
        "supernet": {
            "strategy_options": {"tokens": 8, "first": 2, "generations": 0, "measured": 5, "target": 1e6, "window": 0}
        }
    },
    "weight-coupling": {
        "supernet": {
            "strategy_options": {"paths": 2, "allocator": {"name": "bidirectional", "measured": 2, "patience": 0}}
        }
    },
}
"""FDQ is without its modified gradients, which go by the sign that a gradient has in each micro-batch, and without what
it learns of inputs: single numbers, whose gradients are sums of what rounding left, and turn as soon as codes move."""


class Record(TrainerCallback):
    """Keeps every step's gradients and losses of the first stage: after it, two runs may differ by a code here or there
    that one of them rounded the other way."""

    def __init__(self):
        self.gradients, self.logs = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if "/1-" in args.output_dir:
            self.gradients.append(
                {name: None if one.grad is None else one.grad.clone() for name, one in model.named_parameters()}
            )

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


def recorded(method, folder, batch, accumulation, **changes):
    record, options = Record(), dict(CASES[method])
    head = options.get("head", "sequence")
    stages = STAGES.get(method)
    changes = {
        "train_dataset": sentences(STEPS * 8 if method != "mpq" else 64, head),
        "stages": stages,
        "num_train_epochs": 2,
        **changes,
    }
    callbacks = [record, *changes.pop("callbacks", [])]
    run = trainer(
        still(quantized(method, **{"layers": 1, **options})),
        folder,
        per_device_train_batch_size=batch,
        logging_steps=1,
        gradient_accumulation_steps=accumulation,
        callbacks=callbacks,
        learning_rate=1e-4,
        save_strategy="no",
        **changes,
    )
    run.train()
    return record.gradients, record.logs, None if is_open(run.model) else hf_mpq.assignment_of(run.model)


def _process(rank, port, method, folder, changes):
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        HF_MPQ_CACHE=f"{folder}/cache",
    )
    found = recorded(method, folder, 4, 1, **changes)
    torch.save(found, f"{folder}/rank{rank}.pt")


def two_processes(method, folder, **changes):
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(_process, (port, method, str(folder), changes), nprocs=2, start_method=FORKED)
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


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Of what was measured on this machine."""
    monkeypatch.setenv("HF_MPQ_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process without accumulation gives, made once."""
    return cache(lambda method: recorded(method, tmp_path_factory.mktemp("one"), 8, 1))


@pytest.mark.parametrize(
    ("method", "accumulation"),
    [
        pytest.param(method, accumulation, marks=[] if accumulation == 2 or method == "mpq" else pytest.mark.full)
        for method in sorted(CASES.keys() - {"bigger-faster"})  # which measures this machine
        for accumulation in (2, 4)
    ],
)
def test_accumulated_gradients_are_those_of_the_batch(method, accumulation, alone, tmp_path):
    expected = alone(method)
    assert any(gradient is not None for gradient in expected[0][0].values())
    assert_same(recorded(method, tmp_path / "more", 8 // accumulation, accumulation), expected)


TWO = ("mpq", "aq-bert", "vertical")


@pytest.mark.parametrize(
    "method", [method if method in TWO else pytest.param(method, marks=pytest.mark.full) for method in CASES]
)
def test_two_processes_train_as_one(method, alone, tmp_path):
    expected = alone(method)
    first, second = two_processes(method, tmp_path / "two")
    assert_same(first, expected)
    assert_same(second, expected)
    assert first[2] == second[2] == expected[2]


class SameWeights(TrainerCallback):
    """Begins every step of the first stage with the state that another run began it with, and keeps its gradients."""

    def __init__(self, states=None):
        self.given, self.states, self.gradients = states, [], []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if "/1-" in args.output_dir:
            if self.given is not None:
                model.load_state_dict(self.given[state.global_step])
            self.states.append({name: value.clone() for name, value in model.state_dict().items()})

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if "/1-" in args.output_dir:
            found = [one.grad.flatten() for one in model.parameters() if one.grad is not None]
            self.gradients.append(torch.cat(found) if found else torch.zeros(1))


@pytest.mark.parametrize("method", ["channelwise", "vertical"])
def test_from_the_same_weights_every_step_has_the_same_gradient_however_it_is_cut(method, tmp_path):
    """Sums are right in every step: runs whose steps are cut otherwise part only because an optimizer makes whole steps
    of rounding errors, and then a code or a decision flips."""
    first = SameWeights()
    recorded(method, tmp_path / "one", 8, 1, callbacks=[first], num_train_epochs=4)
    again = SameWeights(first.states)
    recorded(method, tmp_path / "more", 2, 4, callbacks=[again], num_train_epochs=4)
    assert len(first.gradients) == len(again.gradients) > 4
    for ours, theirs in zip(again.gradients, first.gradients):
        assert (ours - theirs).norm() <= 2e-6 * theirs.norm()


RAGGED = {"num_train_epochs": 1, "train_dataset": sentences(50)}


@pytest.mark.parametrize(("drop_last", "steps"), [(False, 7), (True, 6)])
def test_the_ragged_end_of_an_epoch_is_one_step_for_accumulation_too(drop_last, steps, tmp_path):
    ragged = {**RAGGED, "dataloader_drop_last": drop_last}
    expected = recorded("class-based", tmp_path / "one", 8, 1, **ragged)
    assert len(expected[0]) == steps
    assert_same(recorded("class-based", tmp_path / "more", 4, 2, **ragged), expected)


def test_the_ragged_end_of_an_epoch_is_one_step_for_two_processes_too(tmp_path):
    expected = recorded("class-based", tmp_path / "one", 8, 1, **RAGGED)
    for found in two_processes("class-based", tmp_path / "two", **RAGGED):
        assert_same(found, expected)


class TwoPasses(Bilevel):
    """In each step the weights learn from its batch, and the gates from one of the slice."""

    split = "steps"

    def passes(self, progress):
        gates = Pass("gates", frozenset({GATE_PARAMETERS}), data="search", penalised=True)
        return (Pass("weights"), gates)


def test_two_passes_of_a_step_accumulate_each(tmp_path, monkeypatch):
    monkeypatch.setitem(STRATEGIES._items, "two", TwoPasses)
    changes = {"stages": {"search": {"strategy": "two"}}, "num_train_epochs": 4}
    expected = recorded("aq-bert", tmp_path / "one", 8, 1, **changes)
    assert all(
        any("gate" in name and gradient.any() for name, gradient in step.items() if gradient is not None)
        for step in expected[0]
    )
    assert_same(recorded("aq-bert", tmp_path / "more", 4, 2, **changes), expected)
