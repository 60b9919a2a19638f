"""Scores of inputs whose bits are open."""

import pytest
import torch
from scipy.stats import spearmanr

from hf_mpq import MPQConfig
from hf_mpq.core import input_of
from hf_mpq.nn import absolute_name
from hf_mpq.search import SCORERS
from hf_mpq.search.scorers import divergence, reference_of
from hf_mpq.search.scorers.inputs import candidates_of
from tests.search.test_scorers import batches, score, snapshot
from tests.tiny import tiny_model

CLOSED = MPQConfig(bits=(2, 4), groups=2, quantizer="minmax")
OPEN = MPQConfig(bits=(2, 4), groups=2, quantizer="minmax", activation_bits=(2, 3, 4, 8))
ALONE = MPQConfig(bits=4, gate="fixed", activation_bits=(2, 4, 8))
SCORING = {"fisher", "gradient", "kl"}


@pytest.mark.parametrize("scorer", list(SCORERS))
def test_contract(scorer):
    """Those of weights stay as they are; inputs have scores of one group, or none."""
    model = tiny_model("bert")
    space, before = OPEN.resolve(model), snapshot(model)
    plain, found = (score(scorer, model, config, batches(2)) for config in (CLOSED, OPEN))
    assert all(torch.equal(found[name], table) for name, table in plain.items())
    inputs = {name: table for name, table in found.items() if name not in plain}
    expected = {name for name in space.open_choices if name not in space.weights}
    assert set(inputs) == (expected if scorer in SCORING else set()) and expected
    for table in inputs.values():
        assert table.shape == (1, 4) and table.dtype == torch.float64 and torch.isfinite(table).all()
        assert (table >= 0).all() and (table.diff(dim=1) <= 0).all() and table[0, 0] > 0
    assert snapshot(model) == before


@pytest.mark.parametrize("scorer", sorted(SCORING))
@pytest.mark.parametrize("family", ["bert", "albert", "deberta-v2"])
def test_inputs_alone_are_scored(family, scorer):
    model = tiny_model(family)
    space = ALONE.resolve(model)
    found = SCORERS[scorer]().score(model, space, batches(2))
    assert set(found) == set(space.open_choices) and all(table.shape == (1, 3) for table in found.values())


def test_what_is_measured_is_a_model_that_reads_the_input_rounded():
    model = tiny_model("bert")
    space, given = ALONE.resolve(model), batches(2)
    found, reference = SCORERS["kl"]().score(model, space, given), reference_of(model, given)
    name = "encoder.layer.0.attention.output.dense"
    layer = model.get_submodule(absolute_name(model, name))
    forward = type(layer).forward
    for column, quantizer in enumerate(candidates_of(space.weights[name].activation)):
        layer.forward = lambda x, q=quantizer: forward(layer, q.rounded(x))
        expected = float(divergence(model, {}, reference).mean())
        del layer.forward
        assert float(found[input_of(name)][0, column]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scorer", ["fisher", "gradient"])
def test_estimates_go_with_what_is_measured(scorer):
    model = tiny_model("bert")
    space, given = OPEN.resolve(model), batches(8)
    inputs = [name for name in space.open_choices if name not in space.weights]
    measured = SCORERS["kl"](per="matrix").score(model, space, given)
    options = {"draws": 4} if scorer == "fisher" else {}
    estimated = SCORERS[scorer](**options).score(model, space, given)
    first, second = (torch.cat([scores[name] for name in inputs]).flatten() for scores in (estimated, measured))
    assert spearmanr(first, second).statistic > 0.9
    if scorer == "fisher":  # on the scale of what it estimates
        at_four = [sum(float(scores[name][0, 2]) for name in inputs) for scores in (estimated, measured)]
        assert 0.5 < at_four[0] / at_four[1] < 2
