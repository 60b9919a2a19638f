"""Batches of tensors from whatever a user has."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def batches_of(calibration: Iterable | None, model: nn.Module, batch_size: int, max_examples: int) -> list[Mapping]:
    """Padded batches of tensors from a data set of tokenized rows; batches that are given as such are passed on.

    Args:
        calibration: rows with `input_ids` (lists of token ids) and perhaps `attention_mask` and `token_type_ids`, or
            batches of tensors; None gives no batches.
        model: whose padding token is used.
        batch_size: of the batches made from rows.
        max_examples: rows that are used, from the start; rows of like length come together.

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
    padding = {"input_ids": model.config.pad_token_id or 0}
    starts = range(0, len(rows), batch_size)
    return [_padded(rows[start : start + batch_size], names, padding) for start in starts]


def _padded(rows: list[Mapping], names: list[str], padding: Mapping[str, int]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    fill = lambda row, name: [*row[name], *[padding.get(name, 0)] * (width - len(row[name]))]  # noqa: E731
    batch = {name: torch.tensor([fill(row, name) for row in rows]) for name in names}
    if "attention_mask" not in batch:
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        batch["attention_mask"] = (torch.arange(width) < lengths.unsqueeze(1)).long()
    return batch
