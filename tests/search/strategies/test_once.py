"""One training of all precisions: its passes, from the highest down."""

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import Assignment
from hf_mpq.search.strategies import STRATEGIES
from tests.search.strategies.conftest import open_case


def strategy_of(bits=(2, 3, 4, 8), rules=None, **options):
    case = open_case(None, bits=bits, nested=True, rules=rules or {})
    return case, case.strategy("once", **options)


def test_every_precision_has_a_pass_that_the_one_above_teaches(at_step):
    _, once = strategy_of()
    for step in (0, 29):
        found = [(one.precision, one.name, one.teacher, one.share) for one in once.passes(at_step(step))]
        assert found == [
            (8, "8 bits", None, 1.0),
            (4, "4 bits", "8 bits", 1.0),
            (3, "3 bits", "4 bits", 1.0),
            (2, "2 bits", "3 bits", 1.0),
        ]
    assert once.combine == "min-norm" and STRATEGIES["once"].combine == "sum", "an instance's own"


def test_the_sum_is_of_the_mean_loss(at_step):
    _, once = strategy_of(combine="sum")
    assert once.combine == "sum" and sum(one.share for one in once.passes(at_step(0))) == pytest.approx(1)


def test_only_precisions_that_every_nested_matrix_serves_have_passes(at_step):
    _, once = strategy_of(rules={r"layer\.0\.": {"bits": [2, 8]}, "pooler": {"bits": 4}})
    assert [one.precision for one in once.passes(at_step(0))] == [8, 2]


def test_it_searches_nothing_and_decides_what_the_model_has(at_step):
    case, once = strategy_of()
    once.prepare(case.model)
    before = {name: one.clone() for name, one in case.model.state_dict().items()}
    assert not once.searches and once.penalty({}, at_step(0)) is None and once.state_dict() == {}
    model, assignment = once.derive(case.model)
    assert model is case.model and assignment == hf_mpq.assignment_of(model) and isinstance(assignment, Assignment)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_what_it_cannot_do_is_said(make_case):
    with pytest.raises(
        ValueError, match=r"this model has none: quantize it with MPQConfig\(bits=\(2, 3, 4, 8\), nested=True\)"
    ):
        make_case().strategy("once")
    with pytest.raises(ValueError, match="combine must be one of min-norm, sum"):
        strategy_of(combine="mean")
    with pytest.raises(ValueError, match="needs several precisions"):
        MPQConfig(method="vertical", bits=4)
