"""Batches made from rows: padding, and labels where they are wanted."""

import pytest
import torch
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


@pytest.mark.parametrize("kind", ["rows", "batches", "one batch", "mapping"])
@pytest.mark.parametrize(("length", "wanted"), [(4, 512), (35, 469), (38, 432), (39, 421), (12, 512)])
def test_where_nobody_says_how_many_long_examples_are_fewer(length, wanted, kind):
    """As many as have 16,384 tokens, from 256 to 512; so are those that are given in batches of one's own."""
    ids = torch.full((600, length), 7)
    given = {
        "rows": [{"input_ids": row} for row in ids.tolist()],
        "batches": [{"input_ids": some} for some in ids.split(25)],
        "one batch": [{"input_ids": ids}],
        "mapping": {"input_ids": ids},
    }[kind]
    found = batches_of(given, tiny_model("bert"), 16)
    assert sum(len(batch["input_ids"]) for batch in found) == wanted
    assert sum(len(batch["input_ids"]) for batch in batches_of(given, tiny_model("bert"), 16, 550)) == 550


def test_very_long_examples_are_256():
    model = tiny_model("bert", max_position_embeddings=90)
    found = batches_of({"input_ids": torch.full((600, 80), 7)}, model, 16)
    assert sum(len(batch["input_ids"]) for batch in found) == 256
