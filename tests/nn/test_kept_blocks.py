"""Layers that are as they were, and read what they read, are not run again; what they give is the same bit for bit."""

import copy
import functools

import pytest
import torch

from hf_mpq.nn import encoder_blocks
from hf_mpq.nn.kept_blocks import KeptBlocks
from tests.tiny import MOST, tiny_batch, tiny_model


class Counted:
    """A model with its layers kept, and the names of those that ran in the last pass."""

    def __init__(self, family="bert", **given):
        self.model = tiny_model(family).eval()
        self.blocks = encoder_blocks(self.model)
        self.kept, self.ran = KeptBlocks(self.blocks, **given), []
        for name, block in self.blocks.items():
            block.forward = self._told(name, block.forward)

    def _told(self, name, run):
        return lambda *args, **kwargs: self.ran.append(name) or run(*args, **kwargs)

    @torch.no_grad()
    def __call__(self, *batches, **states):
        """Outputs of some batches, with layers in these states, 0 where none is given."""
        self.ran.clear()
        with self.kept.using({name: states.get(f"layer{place}", 0) for place, name in enumerate(self.blocks)}):
            return [next(iter(self.model(**batch).values())) for batch in batches or (tiny_batch(),)]


@pytest.fixture
def counted():
    return Counted()


@pytest.mark.parametrize("family", MOST)
def test_nothing_runs_twice_and_outputs_are_the_same(family):
    counted = Counted(family)
    wanted = next(iter(copy.deepcopy(counted.model)(**tiny_batch()).values()))
    assert torch.equal(counted()[0], wanted) and counted.ran
    assert torch.equal(counted()[0], wanted) and not counted.ran


def test_what_is_behind_a_change_runs_if_it_reads_another_input(counted):
    first, second = counted.blocks
    before = counted()[0]
    with torch.no_grad():
        next(counted.blocks[second].parameters()).add_(1)
    assert not torch.equal(counted(layer1=1)[0], before) and counted.ran == [second]
    with torch.no_grad():
        next(counted.blocks[first].parameters()).add_(1)
    counted(layer0=1, layer1=1)
    assert counted.ran == [first, second]


def test_two_states_are_kept_the_last_used(counted):
    for state in (0, 1, 0, 2):
        counted(layer1=state)
    counted(layer1=0)
    assert not counted.ran
    counted(layer1=1)
    assert counted.ran == list(counted.blocks)[1:]


def test_other_inputs_are_noticed(counted):
    counted()
    other = {**tiny_batch(), "attention_mask": tiny_batch()["attention_mask"].clone()}
    other["attention_mask"][0, -2:] = 0
    given = counted(other)[0]
    assert counted.ran == list(counted.blocks)
    assert torch.equal(given, next(iter(copy.deepcopy(counted.model)(**other).values())))


def test_each_batch_is_a_call_of_its_own(counted):
    batches = [tiny_batch(), {key: value.flip(0) for key, value in tiny_batch().items()}]
    wanted = counted(*batches)
    assert all(map(torch.equal, counted(*batches), wanted)) and not counted.ran


def test_nothing_is_kept_of_what_is_trained_or_unknown(counted):
    counted()
    counted(layer0=None)
    assert counted.ran == list(counted.blocks)[:1]
    counted.model.train()
    counted()
    assert counted.ran == list(counted.blocks)
    counted.model.eval()
    counted.ran.clear()
    with counted.kept.using(dict.fromkeys(counted.blocks, 0)):
        counted.model(**tiny_batch())
    assert counted.ran == list(counted.blocks)  # it could be differentiated


def test_memory_has_an_end():
    size = tiny_batch()["input_ids"].numel() * tiny_model("bert").config.hidden_size * 4
    counted = Counted(most=size)
    counted()
    counted()
    assert counted.ran == list(counted.blocks)[1:]


def test_layers_have_their_own_forward_again(counted):
    before = [vars(block)["forward"] for block in counted.blocks.values()]
    counted()
    assert [vars(block)["forward"] for block in counted.blocks.values()] == before
    block = next(iter(encoder_blocks(tiny_model("bert")).values()))
    with KeptBlocks({"block": block}).using({"block": 0}):
        assert "forward" in vars(block)
    assert "forward" not in vars(block)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_copy_that_is_made_meanwhile_runs_its_own_layers(wrapped):
    """As that of a teacher, which is made when a search measures first."""
    model = tiny_model("bert").eval()
    if wrapped:
        for block in encoder_blocks(model).values():
            block.forward = functools.partial(type(block).forward, block)
    kept, batch = KeptBlocks(encoder_blocks(model)), tiny_batch()
    with torch.no_grad(), kept.using(dict.fromkeys(encoder_blocks(model), 0)):
        model(**batch)
        twin = copy.deepcopy(model)
        for parameter in twin.parameters():
            parameter.mul_(0.5)
        got = next(iter(twin(**batch).values()))
    fresh = tiny_model("bert").eval()
    fresh.load_state_dict(twin.state_dict())
    with torch.no_grad():
        assert torch.equal(got, next(iter(fresh(**batch).values())))
