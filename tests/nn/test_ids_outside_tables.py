"""Ids that a table does not have are an IndexError in every storage, as in a float table."""

import pytest
import torch

import hf_mpq
from hf_mpq.core import SubgroupLayout
from hf_mpq.nn.packing import pack_matrix
from hf_mpq.runtime import BACKENDS
from hf_mpq.weights import QUANTIZERS
from tests.nn.cases import LAYOUTS, MIXED, embedding_of
from tests.tiny import MOST, VOCABULARY, tiny_batch, tiny_model

OUTSIDE = (-1, -100, 13, 10_000)
SEGMENTS = ("bert", "roberta", "xlm-roberta", "electra", "albert")


@pytest.mark.parametrize("mask", [None, "element"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_tables_of_every_kind(name, layout, mask):
    table = embedding_of(LAYOUTS[layout], (2, 4, 8) if name == "nested" else MIXED, quantizer=name, mask=mask)
    for storage in (table, pack_matrix(table)):
        assert storage(torch.tensor([[0, 12], [12, 5]])).shape == (2, 2, 11)
        for wrong in OUTSIDE:
            with pytest.raises(IndexError):
                storage(torch.tensor([3, wrong, 0]))


def test_a_table_whose_rows_are_all_pruned_or_of_one_precision():
    for candidates in ((0,), (8,), (0, 8)):
        packed = pack_matrix(embedding_of(SubgroupLayout.of("channel", (13, 11)), candidates))
        with pytest.raises(IndexError):
            packed(torch.tensor([13]))


def wrong_inputs(family: str):
    """By name: an added token, negative ones, a text longer than the positions, and another model's segments."""
    batch = tiny_batch(2, 7)
    for wrong in (VOCABULARY, -1, -100):
        ids = batch["input_ids"].clone()
        ids[0, 2] = wrong
        yield f"id {wrong}", {**batch, "input_ids": ids}
    yield "too long", tiny_batch(2, 60)
    if family in SEGMENTS:
        yield "segment", {**batch, "token_type_ids": torch.full_like(batch["input_ids"], 7)}


@torch.no_grad()
def errors(model, family):
    """What each of the wrong inputs raises; None where it gets an answer."""
    found = {}
    for what, inputs in wrong_inputs(family):
        try:
            found[what] = model(**inputs) and None
        except Exception as error:
            found[what] = type(error)
    return found


@pytest.mark.parametrize("family", MOST)
def test_models_of_every_family_and_backend(family):
    model = tiny_model(family, "bare")
    want = errors(model, family)
    assert list(want.values()).count(IndexError) >= 3, want
    hf_mpq.quantize(model, hf_mpq.MPQConfig(bits=4))
    assert errors(model, family) == want
    hf_mpq.pack(model)
    for name in ("auto", *(name for name in BACKENDS if BACKENDS[name].unavailable(model) is None)):
        assert errors(hf_mpq.prepare(model, name), family) == want, name
