"""Passages ranked by encoders that read queries and passages apart."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from datasets import Dataset

from .metrics import RankingMetric


class TextEncoder(Protocol):
    """What `SentenceTransformer` and `MultiVectorEncoder` of sentence-transformers do."""

    def encode_query(self, texts: list[str], /, *, batch_size: int) -> Sequence[Any]:
        """One entry for each text."""

    def encode_document(self, texts: list[str], /, *, batch_size: int) -> Sequence[Any]:
        """One entry for each text."""

    def similarity_pairwise(self, queries: Any, documents: Any, /) -> Any:
        """One number for each pair."""


def ranking_scores(encoder: TextEncoder, rows: Dataset, batch_size: int = 32) -> dict[str, float]:
    """nDCG@10 and MRR@10, from 0 to 1, of passages ordered by the encoder's own similarity: MaxSim of a
    `MultiVectorEncoder`, cosine of most embedders. Every text is encoded once.

    Args:
        encoder: of sentence-transformers.
        rows: of the columns query, passage and label, as the tasks `"ranking"` and `"squad-ranking"` have them.
        batch_size: texts that are encoded together.

    Raises:
        ValueError: for rows that lack a column.
    """
    missing = [name for name in ("query", "passage", "label") if name not in rows.column_names]
    if missing:
        raise ValueError(f"rows to rank need the columns query, passage and label, these lack {', '.join(missing)}")
    scores = pair_similarities(encoder, rows["query"][:], rows["passage"][:], batch_size)
    references = [{"query": query, "relevance": label} for query, label in zip(rows["query"][:], rows["label"][:])]
    return dict(RankingMetric(("ndcg@10", "mrr@10")).compute(predictions=scores, references=references))


def pair_similarities(
    encoder: TextEncoder, queries: list[str], passages: list[str], batch_size: int = 32
) -> np.ndarray:
    """The encoder's own similarity of each query and its passage, `(pairs,)`. Every text is encoded once."""
    asked = _encoded(encoder.encode_query, queries, batch_size)
    found = _encoded(encoder.encode_document, passages, batch_size)
    scores = encoder.similarity_pairwise([asked[text] for text in queries], [found[text] for text in passages])
    return np.asarray(scores.cpu() if hasattr(scores, "cpu") else scores)


def _encoded(encode: Any, texts: list[str], batch_size: int) -> dict[str, Any]:
    """Text to what it is encoded as."""
    once = list(dict.fromkeys(texts))
    return dict(zip(once, encode(once, batch_size=batch_size), strict=True))
