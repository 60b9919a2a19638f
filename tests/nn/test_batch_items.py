"""What people pass as examples: taken as it is, or one sentence that says what to give."""

from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
from torch.utils.data import DataLoader, Subset
from transformers import BertForMultipleChoice

import hf_mpq
from hf_mpq.nn.batches import batches_of
from hf_mpq.nn.running import real_tokens
from tests.tiny import tiny_batch, tiny_config, tiny_model

TEXTS = [f"the call {n} returns {n % 3} values" for n in range(6)]


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model("bert", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)


@pytest.fixture(scope="module")
def chooser(tokenizer):
    return BertForMultipleChoice(tiny_config("bert", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id))


def columns(encoding, kind):
    return [{name: kind(values) for name, values in row.items()} for row in rows_of(encoding)]


def rows_of(encoding):
    return [{name: values[number] for name, values in encoding.items()} for number in range(len(TEXTS))]


def loader(words):
    return DataLoader(columns(words(TEXTS, padding=True), torch.tensor), batch_size=2)


TAKEN = {
    "rows": lambda words: [words(text) for text in TEXTS],
    "rows of numpy": lambda words: columns(words(TEXTS), np.array),
    "rows of tensors": lambda words: columns(words(TEXTS), torch.tensor),
    "a data set": lambda words: datasets.Dataset.from_dict(dict(words(TEXTS))),
    "a data set of torch": lambda words: Subset([words(text) for text in TEXTS], range(len(TEXTS))),
    "a generator": lambda words: (words(text) for text in TEXTS),
    "ids": lambda words: [words(text)["input_ids"] for text in TEXTS],
    "ids of numpy": lambda words: [np.array(words(text)["input_ids"]) for text in TEXTS],
    "an encoding": lambda words: words(TEXTS),
    "an encoding of tensors": lambda words: words(TEXTS, return_tensors="pt", padding=True),
    "an encoding of numpy": lambda words: words(
        TEXTS, return_tensors="np", padding=True, return_length=True, return_special_tokens_mask=True
    ),
    "encodings": lambda words: [words(TEXTS[:3]), words(TEXTS[3:])],
    "a batch": lambda words: [words(TEXTS, return_tensors="pt", padding=True)],
    "a loader": loader,
    "a loader of more than tensors": lambda words: [
        {**words(TEXTS, padding=True, return_tensors="pt"), "text": TEXTS, "idx": list(range(len(TEXTS)))}
    ],
    "texts": lambda words: TEXTS,
    "a column of texts": lambda words: datasets.Dataset.from_dict({"text": TEXTS})["text"],
}


def lines(batches) -> set[tuple[int, ...]]:
    """Ids of every row without its padding."""
    return {
        tuple(ids[mask.bool()].tolist())
        for batch in batches
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"])
    }


@pytest.mark.parametrize("how", TAKEN)
def test_taken(how, model, tokenizer):
    """The same tokens whichever way they are given, in batches that the model runs."""
    batches = batches_of(TAKEN[how](tokenizer), model, 4, 100, tokenizer=tokenizer)
    assert lines(batches) == {tuple(tokenizer(text)["input_ids"]) for text in TEXTS}
    for batch in batches:
        assert model(**batch).logits.shape == (len(batch["input_ids"]), 2)


def test_one_row_alone(model, tokenizer):
    for given in (tokenizer(TEXTS[0]), tokenizer(TEXTS[0])["input_ids"]):
        assert lines(batches_of(given, model, 4, 10)) == {tuple(tokenizer(TEXTS[0])["input_ids"])}


def test_pairs_of_texts_are_cut_where_the_model_ends(model, tokenizer):
    (batch,) = batches_of([(TEXTS[0], TEXTS[1]), (" ".join(TEXTS * 9), "short")], model, 4, 10, tokenizer=tokenizer)
    assert batch["input_ids"].shape == (2, 40) and batch["token_type_ids"].max() == 1


@pytest.mark.parametrize("family", ["roberta", "mpnet"])
def test_padding_takes_no_position(family):
    """Of families whose positions begin after the padding's: 38 tokens, however many are padded."""
    model, ids = tiny_model(family), torch.full((2, 45), 1)
    ids[:, :38] = 7
    batch = {"input_ids": ids, "attention_mask": (ids == 7).long()}
    assert batches_of([batch], model, 4, 10) == [batch]
    with pytest.raises(ValueError, match="has 39 tokens, and this model has positions for 38: tokenize with"):
        batches_of([[7] * 39], model, 4, 10)


@pytest.mark.parametrize("number", [5, 12, 30])
def test_rows_are_counted_in_batches_or_not(number, model, tokenizer):
    whole = tokenizer(TEXTS, return_tensors="pt", padding=True)
    repeated = {name: value.repeat(5, 1) for name, value in whole.items()}
    for given in ([whole] * 5, (row for row in rows_of(tokenizer(TEXTS)) * 5), repeated):
        assert sum(len(batch["input_ids"]) for batch in batches_of(given, model, 4, number)) == number
    batches = batches_of(whole, model, 4, 100)
    assert [len(batch["input_ids"]) for batch in batches] == [4, 2]


REFUSED = {
    "texts": (lambda words: TEXTS, "holds texts: give their tokenizer too, tokenizer="),
    "a frame": (lambda words: pandas.DataFrame({"text": TEXTS}), "pandas frame: give its rows, "),
    "all splits": (
        lambda words: datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": TEXTS})}),
        r"choose a split, such as calibration\['train'\]",
    ),
    "a path": (lambda words: Path("rows.csv"), "is a path, 'rows.csv': load what is there"),
    "a folder": (lambda words: str(Path(__file__).parent), "is a path, .*: load what is there"),
    "one text": (lambda words: "a list of names", "is one text: give a list of texts"),
    "a tensor": (lambda words: torch.ones(2, 3), r"Tensor of shape \(2, 3\), which does not say what is padding: give"),
    "an array": (lambda words: np.ones((2, 3)), r"ndarray of shape \(2, 3\), which does not say what is padding"),
    "tensors": (lambda words: [torch.ones(2, 3)], r"an item of type Tensor of shape \(2, 3\): give rows"),
    "tuples": (lambda words: [(torch.ones(2, 3),)], "an item of type tuple: give rows"),
    "a number": (lambda words: 512, "is of type int: give rows"),
    "rows of texts": (lambda words: [{"text": "hello"}], r"need input_ids, these have \['text'\]: tokenize them first"),
    "too long": (lambda words: [[7] * 41], "has 41 tokens, and this model has positions for 40: .* max_length=40"),
    "other ids": (lambda words: [[10**6]], "token id 1000000, and this model's table has rows 0 to .* own tokenizer"),
    "ids below": (lambda words: [[-1]], "token id -1"),
    "other types": (lambda words: [{"input_ids": [5], "token_type_ids": [2]}], "token type id 2, .* rows 0 to 1"),
    "nothing in rows": (lambda words: [[], []], "every calibration row is empty"),
    "masks of 3": (lambda words: [{**tiny_batch(), "attention_mask": torch.ones(3, 11, 11)}], "the shape of input_ids"),
    "masks of no token": (
        lambda words: [{"input_ids": [5, 6], "attention_mask": [0, 0]}],
        "hides every token of every calibration row",
    ),
    "longer masks": (
        lambda words: [[5, 6], {"input_ids": [5, 6], "attention_mask": [1, 1, 1]}],
        "has 2 input_ids and 3 attention_mask: give one of them for each token, or leave attention_mask out",
    ),
    "shorter types": (lambda words: [{"input_ids": [5, 6], "token_type_ids": [0]}], "2 input_ids and 1 token_type_ids"),
    "no ids": (lambda words: [{"input_ids": None}], "input_ids .* are of type NoneType, and no token ids: tokenize"),
    "words as ids": (lambda words: [{"input_ids": "two words"}], "are of type str, and no token ids"),
    "lists of words": (lambda words: [{"input_ids": ["two", "words"]}], "are of type list, and no token ids"),
    "three texts": (lambda words: [TEXTS[:3]], "has an item of type list: give rows"),
    "bytes": (lambda words: [b"text"], "has an item of type bytes: give rows"),
    "choices": (lambda words: [{"input_ids": torch.ones(2, 3, 4).long()}], r"must be \(rows, tokens\); got \(2, 3, 4"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_refused(how, model, tokenizer):
    given, words = REFUSED[how]
    with pytest.raises(ValueError, match=words):
        batches_of(given(tokenizer), model, 4, 10)


def four_dimensions(batch, additive: bool):
    seen = batch["attention_mask"][:, None, None, :].expand(-1, 1, batch["input_ids"].shape[1], -1).bool()
    return {**batch, "attention_mask": (~seen) * torch.finfo(torch.float32).min if additive else seen}


@pytest.mark.parametrize("additive", [False, True])
def test_masks_of_four_dimensions(additive):
    """Those tokens are real that are seen, so scores are those of the mask in two dimensions."""
    batch, model = tiny_batch(), tiny_model("bert")
    wide = four_dimensions(batch, additive)
    assert torch.equal(real_tokens(wide), batch["attention_mask"].bool())
    small, same = (hf_mpq.compress(model, "3bits", [one], rounding="nearest", progress=False) for one in (batch, wide))
    assert hf_mpq.assignment_of(small) == hf_mpq.assignment_of(same)


def test_choices(chooser, tokenizer):
    """Rows of several choices of unlike length, and batches of them."""
    rows = [dict(tokenizer([f"what is {n}"] * 3, ["a list", "a name of it", "or"])) for n in range(4)]
    (batch,) = batches_of(rows, chooser, 8, 10)
    assert batch["input_ids"].shape[:2] == (4, 3) and real_tokens(batch).shape == batch["input_ids"].flatten(0, 1).shape
    assert batches_of([batch], chooser, 8, 10) == [batch]
    small = hf_mpq.compress(chooser, "3bits", rows, rounding={"name": "autoround", "iterations": 1}, progress=False)
    assert small(**batch).logits.shape == (4, 3)


def test_inside_inference_mode(model, tokenizer):
    """Also with a model and batches that were made there; the result trains on."""
    expected = hf_mpq.compress(model, "3bits", TEXTS, tokenizer=tokenizer, rounding="nearest", progress=False)
    with torch.inference_mode():
        twin = tiny_model("bert", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
        batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
        small = hf_mpq.compress(twin, "3bits", batch, rounding="nearest", progress=False)
    assert hf_mpq.assignment_of(small) == hf_mpq.assignment_of(expected)
    small.train()(**tokenizer(TEXTS, return_tensors="pt", padding=True)).logits.sum().backward()
    assert any(parameter.grad is not None for parameter in small.parameters())


def test_names_are_taken_in_any_case_and_checked_before_the_examples(model):
    mistakes = [
        ({"rounding": "gtpq"}, "did you mean 'gptq'"),
        ({"scorer": {"name": "fisher", "draw": 2}}, "'draws'"),
        ({"allocator": {"name": "milp", "gaps": 1}}, "did you mean 'gap'"),
        ({"scorer": 4}, "must be a name"),
        ({"method": "hawq"}, "did you mean 'hawq-v3'"),
        ({"outliers": "gama"}, "did you mean 'gamma'"),
        ({"pooling": "men"}, "did you mean 'mean'"),
    ]
    for wrong, words in mistakes:
        with pytest.raises(ValueError, match=words):
            hf_mpq.compress(model, "3bits", TEXTS, **wrong)
    with pytest.raises(ValueError, match="4bits"):
        hf_mpq.compress(model, 4, TEXTS)
    small = hf_mpq.compress(
        model,
        0.5,
        [[5, 6, 7]],
        scorer="Fisher",
        allocator="LAGRANGIAN",
        rounding="Nearest",
        outliers="None",
        progress=False,
    )
    assert hf_mpq.size_report(small).ratio <= 0.5
