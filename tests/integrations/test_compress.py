"""Training-free compression in one call."""

import pytest
import torch
from datasets import Dataset

import hf_mpq
from hf_mpq import MPQConfig, compress
from tests.tiny import outputs, tiny_batch, tiny_model

CONFIG = MPQConfig(bits=(0, 2, 3, 4, 8), groups=8)


def rows() -> Dataset:
    """Unpadded rows of different lengths, as a tokenizer gives them."""
    ids = [[3 + (7 * row + token) % 90 for token in range(4 + row)] for row in range(6)]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})


def test_a_list_of_budgets_gives_smaller_and_smaller_models():
    model = tiny_model("bert")
    before = outputs(model)
    models = compress(model, ["6bits", "4bits", "2.5bits"], rows(), config=CONFIG)
    found = [hf_mpq.size_report(one).average_bits for one in models]
    assert all(0.9 * limit < bits <= limit for bits, limit in zip(found, (6, 4, 2.5)))
    assert torch.equal(outputs(model)[0], before[0]), "the float model is left as it was"
    errors = [(outputs(one)[0] - before[0]).abs().mean() for one in models]
    assert errors[0] < errors[2]


def test_the_result_trains_on_and_packs(tmp_path):
    model = compress(tiny_model("bert"), "0.3x", [tiny_batch()], config=CONFIG)
    model.train()(**tiny_batch(), labels=torch.tensor([0, 1, 0])).loss.backward()
    assert hf_mpq.size_report(model).ratio <= 0.3
    expected = outputs(model)
    hf_mpq.pack(model).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(outputs(again)[0], expected[0], atol=1e-5, rtol=0)


def test_largest_drop_instead_of_a_budget():
    model = tiny_model("bert")
    before = outputs(model)[0]
    closeness = lambda one: -float((outputs(one)[0] - before).abs().max())  # noqa: E731
    loose, tight = (
        compress(model, calibration=[tiny_batch()], config=CONFIG, max_drop=drop, evaluate=closeness)
        for drop in (0.5, 0.1)
    )
    assert closeness(loose) >= -0.5 and closeness(tight) >= -0.1
    assert hf_mpq.size_report(loose).average_bits < hf_mpq.size_report(tight).average_bits
    with pytest.raises(ValueError, match="even 8 bits drop"):
        compress(model, calibration=[tiny_batch()], config=CONFIG, max_drop=1e-9, evaluate=closeness)


def test_errors_say_what_to_do():
    model = tiny_model("bert")
    with pytest.raises(ValueError, match="either a budget"):
        compress(model, calibration=[tiny_batch()])
    with pytest.raises(ValueError, match="needs evaluate"):
        compress(model, calibration=[tiny_batch()], max_drop=0.1)
    with pytest.raises(ValueError, match="no calibration examples"):
        compress(model, "4bits")
    with pytest.raises(hf_mpq.core.BudgetError, match="smallest"):
        compress(model, "1kB", [tiny_batch()])
    with pytest.raises(ValueError, match="unknown scorer"):
        compress(model, "4bits", [tiny_batch()], scorer="guess")
