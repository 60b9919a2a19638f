"""Which examples a step sees, and how steps, gates and quantization steps are optimised."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from hf_mpq.core import StageSpec
from hf_mpq.search.strategies import GATE_PARAMETERS, STRATEGIES, Bilevel, Pass
from hf_mpq.training.stage.joint_optimizer import JointOptimizer
from hf_mpq.training.stage.module import StageModule
from hf_mpq.training.stage.relative_adam import RelativeAdam
from hf_mpq.training.stage.sampling import EpochSampler, Part, SearchBatches, SeededCollator, slices
from tests.training.runs import collate, quantized, sentences, trainer


def test_each_epoch_is_another_order_of_its_parts():
    sampler = EpochSampler([Part(range(10), 10), Part(range(10, 16), 4)], seed=3)
    first = list(sampler)
    assert len(first) == len(sampler) == 14 and first == list(sampler)
    assert sorted(first[:10]) == list(range(10)) and set(first[10:]) <= set(range(10, 16))
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(EpochSampler([Part(range(10), 10)], seed=4)) != first[:10]


def test_a_part_of_more_than_there_are_begins_anew():
    order = list(EpochSampler([Part(range(10, 15), 12)], seed=3))
    assert order[5:] == [*order[:5], *order[:2]] and sorted(order[:5]) == list(range(10, 15))
    grouped = list(EpochSampler([Part(range(5), 8)], 0, lengths=[3, 1, 2, 3, 1], batch=4))
    assert len(grouped) == 8 and set(grouped) == set(range(5))


def test_like_lengths_come_together():
    lengths = [k % 7 for k in range(800)]
    order = list(EpochSampler([Part(range(800), 800)], 0, lengths, batch=20))
    assert sorted(order) == list(range(800))
    spread = [len({lengths[index] for index in order[k : k + 20]}) for k in range(0, 800, 20)]
    assert max(spread[1:]) <= 3


def test_search_batches_go_through_the_slice_and_differ_by_place():
    batches = SearchBatches(range(100, 112), seed=0, batch=2, count=3)
    seen = [index for step in range(2) for place in range(3) for index in batches.at(step, place)]
    assert sorted(seen) == list(range(100, 112))
    assert [batches.at(5, 1), batches.at(0, 0), batches.at(5, 1)] == [batches.at(5, 1), seen[:2], batches.at(5, 1)]


def test_slices_share_nothing():
    rest, own = slices(50, 8, seed=1)
    assert len(own) == 8 and sorted(rest + own) == list(range(50))
    assert slices(50, 8, seed=2)[1] != own


def test_random_collators_depend_on_examples_and_epoch_alone():
    def masked(rows):
        return {"input_ids": torch.rand(len(rows), 3)}

    collator, rows = SeededCollator(masked, seed=0), [{"input_ids": [1, 2, 3]}]
    before = torch.random.get_rng_state()
    first = collator(rows)["input_ids"]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(collator(rows)["input_ids"], first)
    assert not torch.equal(collator([{"input_ids": [4]}])["input_ids"], first)
    collator.epoch = 1
    assert not torch.equal(collator(rows)["input_ids"], first)


# A search whose passes ask for batches of the slice


class TwoPasses(Bilevel):
    """In each step the weights learn from its batch, and the gates from one of the slice."""

    split = "steps"

    def passes(self, progress):
        gates = Pass("gates", frozenset({GATE_PARAMETERS}), data="search", penalised=True)
        return (Pass("weights"), gates)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gates_learn_from_the_slice_and_weights_from_the_rest(accumulation, tmp_path, monkeypatch):
    monkeypatch.setitem(STRATEGIES._items, "two", TwoPasses)
    rows = sentences(96)
    seen = {"gates": set(), "weights": set(), "train": set()}
    place = {tuple(row["input_ids"]): k for k, row in enumerate(rows)}

    forward = StageModule.forward

    def noted(self, the_pass=None, progress=None, outputs=False, **batch):
        both = zip(batch["input_ids"], batch["attention_mask"])
        seen[the_pass.name].update(place[tuple(row[mask.bool()].tolist())] for row, mask in both)
        return forward(self, the_pass, progress, outputs, **batch)

    monkeypatch.setattr(StageModule, "forward", noted)
    model = quantized("aq-bert+kd", budget="3bits")
    stages = {"search": {"strategy": "two"}}
    trainer(
        model,
        tmp_path,
        train_dataset=rows,
        stages=stages,
        save_strategy="no",
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=4,
    ).train()
    assert len(seen["gates"]) == round(0.2 * 96)
    assert seen["weights"] == set(range(96)) - seen["gates"]
    assert seen["train"] == set(range(96))  # of the stage after the search


# Optimizers


def test_relative_adam_changes_a_step_by_a_share_of_its_size_and_never_its_sign():
    values = nn.Parameter(torch.tensor([1e-4, 1.0, 100.0]))
    optimizer = RelativeAdam([values], lr=0.01)
    for _ in range(3):
        before = values.detach().clone()
        values.grad = torch.tensor([5.0, 1e-6, -1e4])
        optimizer.step()
        torch.testing.assert_close((values.detach() / before).log().abs(), torch.full((3,), 0.01), rtol=1e-3, atol=0)
    for _ in range(2000):
        values.grad = torch.full((3,), 1e6)
        optimizer.step()
    assert (values > 0).all()


def test_relative_adam_resumes():
    def run(stop):
        values = nn.Parameter(torch.tensor([0.5, 2.0]))
        optimizer = RelativeAdam([values], lr=0.05)
        for step in range(6):
            if step == stop:
                state = optimizer.state_dict()
                optimizer = RelativeAdam([values], lr=0.05)
                optimizer.load_state_dict(state)
            values.grad = torch.tensor([1.0, -1.0]) * (step + 1)
            optimizer.step()
        return values.detach()

    assert torch.equal(run(None), run(3))


def test_relative_adam_updates_each_of_many_as_if_it_were_alone():
    def run(*chosen):
        values = [nn.Parameter(torch.tensor(start)) for start in ([0.5, 2.0], [3.0], [7.0])]
        optimizer = RelativeAdam([values[place] for place in chosen], lr=0.05)
        for step in range(5):
            for place, parameter in enumerate(values):
                late = place == 2 and step < 2  # joins when the others have had two updates
                parameter.grad = None if late else torch.full_like(parameter, (-1.5) ** (step + place))
            optimizer.step()
        return [values[place].detach() for place in chosen]

    together, alone = run(0, 1, 2), [run(place)[0] for place in range(3)]
    assert all(torch.equal(one, other) for one, other in zip(together, alone))


def test_a_joint_optimizer_leaves_alone_what_has_no_gradient_and_refuses_another_ones_state():
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    joint = JointOptimizer({"weights": torch.optim.AdamW([first], lr=0.1), "gates": torch.optim.SGD([second], lr=0.1)})
    first.grad = torch.ones(2)
    joint.step()
    assert not torch.equal(first.detach(), torch.ones(2)) and torch.equal(second.detach(), torch.ones(2))
    assert len(joint.param_groups) == 2
    other = JointOptimizer({"weights": torch.optim.AdamW([first], lr=0.1)})
    with pytest.raises(ValueError, match=r"saved optimizer has .*gates.*, this one .*weights"):
        other.load_state_dict(joint.state_dict())


def test_stages_have_positive_shares():
    with pytest.raises(ValueError, match="share"):
        StageSpec("search", share=0)


def test_the_random_sentences_are_distinct():
    assert len({tuple(row["input_ids"]) for row in sentences(96)}) == 96
    assert collate(list(sentences(2)))["input_ids"].shape[0] == 2


def test_a_collator_that_fails_leaves_the_generators_as_they_were():
    def collate(rows):
        raise KeyError("no such column")

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with pytest.raises(KeyError):
        SeededCollator(collate, 0)([{"input_ids": [1]}])
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
