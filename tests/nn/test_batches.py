"""Batches made from rows: padding, and labels where they are wanted."""

import pytest
from torch import nn
from transformers import PretrainedConfig

import hf_mpq
from hf_mpq.nn.batches import batches_of
from hf_mpq.nn.running import forward_inputs
from tests.tiny import tiny_model

ROWS = [{"input_ids": [5, 6, 7]}, {"input_ids": [5]}, {"input_ids": [8, 9]}]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"label": [1, 0, 1]}, {"labels": [0, 1, 1]}),
        ({"labels": [0.5, 0.1, 0.2]}, {"labels": [0.1, 0.2, 0.5]}),
        ({"labels": [[1, 0, 1], [1], [0, 1]]}, {"labels": [[1, -100, -100], [0, 1, -100], [1, 0, 1]]}),
        ({"labels": [[1.0, 0.0]] * 3}, {"labels": [[1.0, 0.0]] * 3}),
        (
            {"start_positions": [0, 1, 2], "end_positions": [2, 1, 2]},
            {"start_positions": [1, 2, 0], "end_positions": [1, 2, 2]},
        ),
    ],
    ids=["classes", "regression", "tokens", "several labels", "spans"],
)
def test_labels_of_rows_are_batched_where_they_are_wanted(labels, expected):
    model = tiny_model("bert")
    rows = [{**row, **{name: values[number] for name, values in labels.items()}} for number, row in enumerate(ROWS)]
    (batch,) = batches_of(rows, model, 4, 10, labels=True)
    for name, values in expected.items():
        assert batch[name].tolist() == [pytest.approx(value) for value in values]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    (plain,) = batches_of(rows, model, 4, 10)
    assert set(plain) == set(forward_inputs(model, batch)) == {"input_ids", "attention_mask"}


def test_a_config_of_ones_own_may_name_no_padding_token():
    class Own(PretrainedConfig):
        """Since transformers 5 it has no `pad_token_id` but its own."""

    model = nn.Module()
    model.config = Own()
    (batch,) = batches_of(ROWS, model, 4, 10)
    assert batch["input_ids"].tolist() == [[5, 0, 0], [8, 9, 0], [5, 6, 7]]


def test_rows_that_lack_what_others_have():
    rows = [{"input_ids": [5, 6]}, {"input_ids": [7, 8, 1], "attention_mask": [1, 1, 0], "token_type_ids": [0, 1, 0]}]
    for given in (rows, rows[::-1]):
        (batch,) = batches_of(given, tiny_model("bert"), 4, 10)
        assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 0]]
        assert batch["token_type_ids"].tolist() == [[0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    "counts", [{"batch_size": 0}, {"max_examples": 0}, {"max_examples": "5"}, {"batch_size": True}]
)
def test_counts_of_rows(counts):
    ((name, value),) = counts.items()
    with pytest.raises(ValueError, match=f"{name} must be a whole number from 1, got {value!r}"):
        hf_mpq.compress(tiny_model("bert"), "25%", ROWS, **counts)
