"""How high the relevant candidates of each query are ranked."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np


def ndcg(scores: np.ndarray, relevance: np.ndarray, depth: int = 10) -> float:
    """Normalised discounted cumulative gain (Järvelin and Kekäläinen, 2002) of one query's candidates.

    `sum of (2^relevance - 1) / log2(rank + 1)` over the first `depth` ranks, divided by that of the best order.

    Args:
        scores, relevance: `(candidates,)`; among equal scores the less relevant come first.
    """
    degrees = np.asarray(relevance, float)
    most = degrees.max(initial=0)  # gains are divided by 2^most, or they might be no finite numbers
    gains = 2.0 ** (degrees - most) - 2.0**-most
    discounts = 1 / np.log2(np.arange(2, min(depth, len(gains)) + 2))
    best = np.sort(gains)[::-1][: len(discounts)] @ discounts
    return float(gains[_order(scores, relevance)][: len(discounts)] @ discounts / best) if best else 0.0


def reciprocal_rank(scores: np.ndarray, relevance: np.ndarray, depth: int = 10) -> float:
    """1 over the rank of the first relevant candidate of one query; 0 where that is below `depth`.

    Args:
        scores, relevance: `(candidates,)`; among equal scores the less relevant come first.
    """
    hits = np.flatnonzero(np.asarray(relevance)[_order(scores, relevance)][:depth] > 0)
    return float(1 / (hits[0] + 1)) if len(hits) else 0.0


def mean_over_queries(
    score: Callable[[np.ndarray, np.ndarray], float],
    predictions: np.ndarray,
    relevance: np.ndarray,
    queries: Sequence[str],
) -> float:
    """The mean of a score over the queries that have something to rank; 0 where none has.

    Args:
        predictions, relevance: `(rows,)`.
        queries: of each row.
    """
    found = [score(predictions[rows], relevance[rows]) for rows in ranked(relevance, queries)]
    return float(np.mean(found)) if found else 0.0


def ranked(relevance: np.ndarray, queries: Sequence[str]) -> Iterator[np.ndarray]:
    """Rows of each query whose candidates are not all equally relevant."""
    _, numbers = np.unique(np.asarray(queries), return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
        if len(rows) and np.ptp(relevance[rows]) > 0:
            yield rows


def _order(scores: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    return np.lexsort((np.asarray(relevance), -np.asarray(scores, float)))
