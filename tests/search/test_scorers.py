"""Scores: against what they estimate, and against each other."""

import pytest
import torch
from scipy.stats import spearmanr

from hf_mpq import MPQConfig
from hf_mpq.nn import absolute_name
from hf_mpq.search import SCORERS
from hf_mpq.search.scorers.base import rounding_errors
from tests.tiny import FAMILIES, HEADS, tiny_batch, tiny_model

CONFIG = MPQConfig(bits=(0, 2, 3, 4, 8), groups=4)


def batches(count: int = 8) -> list[dict]:
    found = []
    for number in range(count):
        batch = tiny_batch()
        batch["input_ids"] = (batch["input_ids"] * (number + 1)) % 94 + 3
        found.append(batch)
    return found


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_contract(family, scorer):
    model = tiny_model(family)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    space = CONFIG.resolve(model)
    first = SCORERS[scorer]().score(model, space, batches(2))
    again = SCORERS[scorer]().score(model, space, batches(2))
    expected = {name for name, spec in space.weights.items() if spec.role == "encoder"}
    assert set(first) == expected
    for name, scores in first.items():
        assert scores.shape == (space.weights[name].layout.count, 5) and scores.dtype == torch.float64
        assert torch.equal(scores, again[name]), "the same seed gives the same scores"
        assert (scores >= 0).all() and (scores.diff(dim=1) <= 0).all(), "more bits never hurt more"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("head", HEADS)
def test_every_head_can_be_scored(head):
    model = tiny_model("bert", head)
    scores = SCORERS["fisher"]().score(model, CONFIG.resolve(model), batches(2))
    assert all(torch.isfinite(values).all() for values in scores.values())
    assert sum(float(values.sum()) for values in scores.values()) > 0


def test_regression_can_be_scored():
    model = tiny_model("bert", num_labels=1)
    scores = SCORERS["fisher"]().score(model, CONFIG.resolve(model), batches(2))
    assert sum(float(values.sum()) for values in scores.values()) > 0


def test_padding_does_not_matter():
    model = tiny_model("bert")
    space = CONFIG.resolve(model)
    short = batches(1)
    padded = [{name: torch.cat([value, torch.full((3, 6), 1 if name == "input_ids" else 0)], 1)
               for name, value in batch.items()} for batch in short]  # fmt: skip
    first, second = (SCORERS["fisher"]().score(model, space, given) for given in (short, padded))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-9)


@torch.no_grad()
def measured(model, name: str, rows: slice, error: torch.Tensor, given: list[dict]) -> float:
    """KL divergence per example that moving some rows by `error` causes."""
    weight = model.get_submodule(absolute_name(model, name)).weight
    before = [model(**batch).logits.double().log_softmax(-1) for batch in given]
    saved = weight[rows].clone()
    weight[rows] += error[rows]
    after = [model(**batch).logits.double().log_softmax(-1) for batch in given]
    weight[rows] = saved
    return sum(float((p.exp() * (p - q)).sum()) for p, q in zip(before, after)) / sum(len(p) for p in before)


def test_fisher_estimates_the_divergence():
    """Ranks sub-groups as measuring each of them does, better than the size of the change alone, and on its scale."""
    model = tiny_model("bert")
    given = batches(12)
    space = CONFIG.resolve(model)
    fisher = SCORERS["fisher"]().score(model, space, given)
    distance = SCORERS["distance"]().score(model, space, given)
    column = CONFIG.bits.index(3)
    truth, estimates, plain = [], [], []
    for name, spec in space.weights.items():
        if spec.role != "encoder":
            continue
        error = rounding_errors(model.get_submodule(absolute_name(model, name)).weight, spec)[column]
        start = 0
        for group, size in enumerate(spec.layout.sizes):
            truth.append(measured(model, name, slice(start, start + size), error, given))
            estimates.append(float(fisher[name][group, column]))
            plain.append(float(distance[name][group, column]))
            start += size
    good = spearmanr(truth, estimates).statistic
    assert good > 0.7 and good > spearmanr(truth, plain).statistic
    assert 0.2 < sum(estimates) / sum(truth) < 5


def test_no_examples():
    model = tiny_model("bert")
    with pytest.raises(ValueError, match="no calibration examples"):
        SCORERS["fisher"]().score(model, CONFIG.resolve(model), [])
