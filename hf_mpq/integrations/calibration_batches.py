"""Batches of tensors from whatever a user has."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_LABELS = {"labels": "labels", "label": "labels", "label_ids": "labels", "start_positions": "start_positions",
           "end_positions": "end_positions"}  # fmt: skip
_IGNORED = -100


def batches_of(
    calibration: Iterable | None, model: nn.Module, batch_size: int, max_examples: int, labels: bool = False
) -> list[Mapping]:
    """Padded batches of tensors from a data set of tokenized rows; batches that are given as such are passed on.

    Args:
        calibration: rows with `input_ids` (lists of token ids) and perhaps `attention_mask` and `token_type_ids`, or
            batches of tensors; None gives no batches.
        model: whose padding token is used.
        batch_size: of the batches made from rows.
        max_examples: rows that are used, from the start; rows of like length come together.
        labels: whether labels of rows, or their start and end positions, go into the batches too; only for rows of the
            model's own task.

    Raises:
        ValueError: when the rows are not tokenized.
    """
    if calibration is None:
        return []
    rows = [row for row, _ in zip(calibration, range(max_examples))]
    if not rows:
        return []
    if "input_ids" not in rows[0]:
        raise ValueError(f"calibration rows need input_ids, these have {sorted(rows[0])}: tokenize them first, for "
                         "example with rows.map(tokenizer, input_columns='text')")  # fmt: skip
    if isinstance(rows[0]["input_ids"], Tensor) and rows[0]["input_ids"].dim() == 2:
        return rows
    names = [name for name in _INPUTS if name in rows[0]]
    rows = sorted(rows, key=lambda row: len(row["input_ids"]))
    padding = {"input_ids": getattr(model.config, "pad_token_id", None) or 0}
    starts = range(0, len(rows), batch_size)
    known = {name: key for name, key in _LABELS.items() if labels and rows[0].get(name) is not None}
    parts = [rows[start : start + batch_size] for start in starts]
    return [{**_padded(part, names, padding), **_labels(part, known)} for part in parts]


def _padded(rows: list[Mapping], names: list[str], padding: Mapping[str, int]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    fill = lambda row, name: [*row[name], *[padding.get(name, 0)] * (width - len(row[name]))]  # noqa: E731
    batch = {name: torch.tensor([fill(row, name) for row in rows]) for name in names}
    if "attention_mask" not in batch:
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        batch["attention_mask"] = (torch.arange(width) < lengths.unsqueeze(1)).long()
    return batch


def _labels(rows: list[Mapping], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Labels of examples, or of tokens, padded with what is ignored."""
    width, found = max(len(row["input_ids"]) for row in rows), {}
    for name, key in names.items():
        values = [torch.as_tensor(row[name]) for row in rows]
        if all(value.shape == (len(row["input_ids"]),) for value, row in zip(values, rows)):
            values = [pad(value, (0, width - len(value)), value=_IGNORED) for value in values]
        found[key] = torch.stack(values)
    return found
