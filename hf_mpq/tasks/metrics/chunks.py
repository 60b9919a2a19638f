"""Precision, recall and F1 of whole chunks (entities), counted as conlleval does (Tjong Kim Sang and Buchholz 2000).

A chunk begins at a ``B-`` tag, and at an ``I-`` tag that follows ``O`` or another type; it ends before ``O``, before a
``B-`` tag and before another type. So IOB1 and IOB2 are both read, and no tag sequence is refused. A chunk is right
when both its ends and its type are. This is what seqeval does, too, in its default mode.
"""

from collections.abc import Sequence

Chunk = tuple[str, int, int]


def chunks(tags: Sequence[str]) -> set[Chunk]:
    """The chunks of one sentence as (type, first word, word after the last)."""
    found, start, kind = set(), None, None
    for position, tag in enumerate([*tags, "O"]):
        prefix, _, current = tag.partition("-")
        begins = prefix == "B" or (prefix != "O" and (start is None or current != kind))
        if start is not None and (begins or prefix == "O"):
            found.add((kind, start, position))
            start = None
        if begins:
            start, kind = position, current
    return found


def chunk_scores(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """ "precision", "recall" and "f1" of all chunks together, and "accuracy" of the tags; 0 where nothing is counted.

    Raises:
        ValueError: a sentence has another number of predictions than of references.
    """
    correct = predicted = actual = right_tags = tags = 0
    for prediction, reference in zip(predictions, references, strict=True):
        right_tags += sum(ours == theirs for ours, theirs in zip(prediction, reference, strict=True))
        tags += len(reference)
        ours, theirs = chunks(prediction), chunks(reference)
        correct, predicted, actual = correct + len(ours & theirs), predicted + len(ours), actual + len(theirs)
    return {
        "precision": ratio(correct, predicted),
        "recall": ratio(correct, actual),
        "f1": ratio(2 * correct, predicted + actual),
        "accuracy": ratio(right_tags, tags),
    }


def ratio(part: int, whole: int) -> float:
    """`part` of `whole`, 0 of nothing."""
    return part / whole if whole else 0.0
