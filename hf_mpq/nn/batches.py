"""Batches of tensors from whatever a user has."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..core.inputs import INPUTS, LABELS, POSITIONS
from .batch_checks import check_batches, check_row, longest_input, takes_choices
from .batch_items import items_of

_LABELS = {**dict.fromkeys(LABELS, LABELS[0]), **{name: name for name in POSITIONS}}
"""What a column of labels is called in a batch."""
_IGNORED = -100
MOST, ENOUGH, TOKENS = 512, 256, 1 << 14
"""Examples that are used at most where nobody says how many, and as many as do where they have so many tokens."""


def batches_of(
    calibration: Iterable | None,
    model: nn.Module,
    batch_size: int,
    max_examples: int | None = None,
    labels: bool = False,
    tokenizer: Any = None,
) -> list[Mapping]:
    """Padded batches of tensors from a data set of tokenized rows; batches that are given as such are passed on.

    Args:
        calibration: rows with `input_ids` (token ids in lists, arrays or tensors) and perhaps `attention_mask` and
            `token_type_ids`; or token ids alone; or batches of tensors; or what a tokenizer returned for many texts;
            or texts, or pairs of texts, with their tokenizer. None gives no batches.
        model: whose padding token is used.
        batch_size: of the batches made from rows.
        max_examples: rows that are used, from the start, in batches or not; rows of like length come together. None:
            512, of long ones fewer, as many as have 16,384 tokens, but at least 256.
        labels: whether labels of rows, or their start and end positions, go into the batches too; only for rows of the
            model's own task.
        tokenizer: of texts, which are cut at the model's longest input.

    Raises:
        ValueError: for something else, or for rows that the model cannot read; the message says what to give.
    """
    if calibration is None:
        return []
    choices, rows, batches, tokens = takes_choices(model), [], [], 0
    size = batch_size if isinstance(calibration, Mapping) else None  # batches of one's own are passed on
    for item in items_of(calibration, choices, tokenizer, longest_input(model)):
        ids, count = item["input_ids"], len(rows) + _count(batches)
        if isinstance(ids, Tensor) and ids.dim() > 1 + choices:
            each = ids.numel() // max(len(ids), 1)
            some = _cut(item, _wanted(max_examples, count, tokens, each), size)
            batches += some
            tokens += each * _count(some)
        else:
            rows.append(item)
            tokens += _tokens(ids)
        if _wanted(max_examples, len(rows) + _count(batches), tokens) <= 0:
            break
    found = [*batches, *_batched(rows, model, batch_size, labels)]
    check_batches(model, found)
    return found


def _wanted(examples: int | None, count: int, tokens: int, each: int = 1) -> int:
    """How many more examples of so many tokens are wanted, after `count` with so many tokens together."""
    if examples is not None:
        return examples - count
    return min(MOST - count, max(ENOUGH - count, -(-(TOKENS - tokens) // max(each, 1))))


def _tokens(ids: Any) -> int:
    """In a row, or in its choices."""
    return ids.numel() if isinstance(ids, Tensor) else sum(len(one) if hasattr(one, "__len__") else 1 for one in ids)


def _count(batches: list[Mapping]) -> int:
    return sum(len(batch["input_ids"]) for batch in batches)


def _cut(batch: Mapping[str, Tensor], most: int, size: int | None) -> list[Mapping]:
    """The first `most` rows of a batch, in batches of `size`; None: in one, the batch itself where that is all."""
    rows = len(batch["input_ids"])
    if rows <= min(most, size or rows):
        return [batch]
    ends = range(0, min(rows, most), size or rows)
    of_rows = {name: value.dim() > 0 and len(value) == rows for name, value in batch.items()}
    return [
        {
            name: value[start : min(start + (size or rows), most)] if of_rows[name] else value
            for name, value in batch.items()
        }
        for start in ends
    ]


def _batched(rows: list[Mapping], model: nn.Module, batch_size: int, labels: bool) -> list[Mapping]:
    if not rows:
        return []
    names, choices = [name for name in INPUTS if any(name in row for row in rows)], takes_choices(model)
    rows = [check_row(_completed(row, names, choices)) for row in rows]
    rows = sorted(rows, key=lambda row: max(map(len, row["input_ids"])) if choices else len(row["input_ids"]))
    padding = {"input_ids": getattr(model.config, "pad_token_id", None) or 0}
    known = {name: key for name, key in _LABELS.items() if labels and rows[0].get(name) is not None}
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return [{**_padded(part, names, padding, choices), **_labels(part, known)} for part in parts]


def _completed(row: Mapping, names: list[str], choices: bool) -> Mapping:
    """The row with what others have: all of its tokens seen, and of the first kind."""
    missing = {name: int(name == "attention_mask") for name in names if name not in row}
    if not missing:
        return row
    ids = row["input_ids"]
    return {
        **row,
        **{
            name: [[value] * len(one) for one in ids] if choices else [value] * len(ids)
            for name, value in missing.items()
        },
    }


def _padded(rows: list[Mapping], names: list[str], padding: Mapping[str, int], choices: bool) -> dict[str, Tensor]:
    """`(rows, tokens)` each; with choices `(rows, choices, tokens)`."""
    lines = {
        name: [
            torch.as_tensor(line, dtype=torch.long) for row in rows for line in (row[name] if choices else [row[name]])
        ]
        for name in names
    }
    width = max(map(len, lines["input_ids"]))
    if "attention_mask" not in lines:
        lines["attention_mask"] = [torch.ones_like(line) for line in lines["input_ids"]]
    batch = {
        name: torch.stack([pad(line, (0, width - len(line)), value=padding.get(name, 0)) for line in given])
        for name, given in lines.items()
    }
    return {name: value.unflatten(0, (len(rows), -1)) if choices else value for name, value in batch.items()}


def _labels(rows: list[Mapping], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Labels of examples, or of tokens, padded with what is ignored."""
    width, found = max(len(row["input_ids"]) for row in rows), {}
    for name, key in names.items():
        values = [torch.as_tensor(row[name]) for row in rows]
        if all(value.shape == (len(row["input_ids"]),) for value, row in zip(values, rows)):
            values = [pad(value, (0, width - len(value)), value=_IGNORED) for value in values]
        found[key] = torch.stack(values)
    return found
