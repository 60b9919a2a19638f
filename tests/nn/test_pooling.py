"""Embeddings are those that sentence-transformers makes of the same hidden states."""

import pytest
import torch
from torch.nn.functional import normalize

from hf_mpq.nn.pooling import POOLINGS, embed

NAMES = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
MASKS = {"padded right": [[1, 1, 1, 1], [1, 1, 0, 0]], "padded left": [[1, 1, 1, 1], [0, 0, 1, 1]], "whole": None}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings(pooling, mask):
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    hidden = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    given = None if MASKS[mask] is None else torch.tensor(MASKS[mask])
    if pooling == "cls" and mask == "padded left":
        pytest.skip("the first token is no padding where it stands for the text")
    features = {"token_embeddings": hidden, "attention_mask": torch.ones(2, 4).long() if given is None else given}
    wanted = modules.Pooling(6, NAMES[pooling])(features)["sentence_embedding"]
    found = embed(hidden, None if given is None else given.bool(), pooling)
    torch.testing.assert_close(found, normalize(wanted, dim=-1))
