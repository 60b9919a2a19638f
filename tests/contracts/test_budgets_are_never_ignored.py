"""A budget is met, or said to be out of reach before anything is scored or trained."""

import pytest

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import BudgetError
from tests.tiny import tiny_batch, tiny_model
from tests.training.runs import trainer

FIXED = [
    {"bits": 4, "budget": "2bits"},
    {"method": "uniform", "budget": "0.5bits"},
    {"method": "q8", "budget": "1kB"},
    {"bits": 4, "budget": "encoder:1kB + 4bits"},
]


def compressed(config, folder):
    return hf_mpq.compress(tiny_model("bert"), config=config, calibration=[tiny_batch()], progress=False)


def trained(config, folder):
    run = trainer(hf_mpq.quantize(tiny_model("bert"), config), folder, max_steps=1)
    run.train()
    return run.model


WAYS = {"compress": compressed, "train": trained}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fields", FIXED, ids=str)
def test_fixed_precisions_that_are_too_large_are_refused(way, fields, tmp_path):
    with pytest.raises(BudgetError, match=r"cannot be met; .*all precisions are fixed: give candidates"):
        WAYS[way](MPQConfig(**fields), tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_fixed_precisions_that_are_small_enough_are_made(way, tmp_path):
    assert hf_mpq.size_report(WAYS[way](MPQConfig(bits=4, budget="8bits"), tmp_path)).average_bits == 4


@pytest.mark.parametrize("way", WAYS)
def test_a_nested_model_has_no_budget_while_it_is_made(way, tmp_path):
    with pytest.raises(ValueError, match="serves every one of its precisions"):
        WAYS[way](MPQConfig(method="vertical", budget="3bits"), tmp_path)


@pytest.mark.parametrize("method", ["mpq", "uniform"])
def test_training_says_at_once_that_nothing_meets_a_budget(method, tmp_path):
    run = trainer(
        hf_mpq.quantize(tiny_model("bert"), MPQConfig(method=method, bits=(2, 4), budget="100bytes")), tmp_path
    )
    with pytest.raises(BudgetError, match="the smallest possible is"):
        run.train()
    assert not list(tmp_path.glob("1-*")), "no stage has begun"


@pytest.mark.parametrize(
    "fields", [{"method": "uniform", "bits": (2, 4)}, {"method": "vertical", "embedding_bits": (4, 8)}]
)
def test_what_is_left_to_choose_is_named_where_a_budget_is_missing(fields, tmp_path):
    with pytest.raises(ValueError, match=r"the precisions of \S+ and \d+ more are left to choose: give a budget"):
        trained(MPQConfig(**fields), tmp_path)


def test_a_config_in_the_place_of_the_budget_is_said_to_be_there():
    with pytest.raises(TypeError, match="config="):
        hf_mpq.compress(tiny_model("bert"), MPQConfig(bits=4))


def test_a_search_of_shapes_refuses_a_budget_that_would_decide_nothing(tmp_path):
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(method="bigger-faster", budget="0.9x"))
    with pytest.raises(BudgetError, match="searches a shape by its milliseconds, and a budget decides nothing"):
        trainer(model, tmp_path).train()
    assert not list(tmp_path.glob("*-*"))


def test_what_makes_fixed_precisions_smaller_is_said(tmp_path):
    """Lower ones, and not higher; or a mask that keeps less."""
    for fields, words in (
        ({"bits": 4, "budget": "1bits"}, r"bits=\(2, 3, 4\)\)"),
        ({"method": "hyperspherical", "budget": "0.2bits"}, "lower density of the mask"),
    ):
        with pytest.raises(BudgetError, match=words):
            trained(MPQConfig(**fields), tmp_path / str(len(words)))
