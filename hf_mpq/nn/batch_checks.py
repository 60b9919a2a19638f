"""What a model cannot read, found before it is run: ids that no table has, inputs that are too long, odd masks."""

from collections.abc import Mapping, Sequence
from numbers import Number

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from . import PackedEmbedding

_TABLES = {
    "input_ids": ("token", "tokenize with the model's own tokenizer"),
    "token_type_ids": ("token type", "leave out token_type_ids, or give those of the model's own tokenizer"),
}


def takes_choices(model: nn.Module) -> bool:
    """Whether a row of its inputs has several choices, `(choices, tokens)`."""
    return type(model).__name__.endswith("ForMultipleChoice")


def check_row(row: Mapping) -> Mapping:
    """The row; raises ValueError where its mask or its token types have not one number for each token."""
    tokens = _lengths(row["input_ids"])
    for name in ("attention_mask", "token_type_ids"):
        if name in row and _lengths(row[name]) != tokens:
            raise ValueError(
                f"a calibration row has {tokens} input_ids and {_lengths(row[name])} {name}: give one of them for each "
                f"token, or leave {name} out"
            )
    return row


def _lengths(line: Sequence) -> int | list[int]:
    """Of a row, or of each of its choices."""
    deep = len(line) > 0 and not isinstance(line[0], Number) and torch.as_tensor(line[0]).dim() > 0
    return [len(one) for one in line] if deep else len(line)


def check_batches(model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> None:
    """Raise ValueError, with what to do, for inputs that the model cannot read."""
    tables = {"input_ids": _input_table(model), "token_type_ids": _table(model, "token_type_embeddings")}
    positions = _table(model, "position_embeddings")
    for batch in batches:
        _check_shapes(batch, takes_choices(model))
        _check_ids(batch, tables)
        _check_length(batch["input_ids"], positions)
    if batches and not any(_sees(batch) for batch in batches):
        raise ValueError("attention_mask hides every token of every calibration row: it is 1 where a token is seen")


def longest_input(model: nn.Module) -> int | None:
    """Tokens that the model has positions for; None where it has no table of them."""
    positions = _table(model, "position_embeddings")
    return None if positions is None else positions.num_embeddings - _reserved(positions)


def _table(model: nn.Module, called: str) -> nn.Module | None:
    """The first table of that name."""
    tables = (module for name, module in model.named_modules() if name.rpartition(".")[2] == called)
    return next((table for table in tables if isinstance(table, nn.Embedding | PackedEmbedding)), None)


def _reserved(table: nn.Module) -> int:
    """Positions that no token gets: RoBERTa's begin after the padding's."""
    return 0 if table.padding_idx is None else table.padding_idx + 1


def _input_table(model: nn.Module) -> nn.Module | None:
    try:
        table = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
    except NotImplementedError:
        return None
    return table if isinstance(table, nn.Embedding | PackedEmbedding) else None


def _check_shapes(batch: Mapping[str, Tensor], choices: bool) -> None:
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    if ids.dim() != 2 + choices:
        wanted = "(rows, choices, tokens) for a model that chooses" if choices else "(rows, tokens)"
        raise ValueError(f"input_ids of a calibration batch must be {wanted}; got {tuple(ids.shape)}")
    if not ids.numel():
        raise ValueError("every calibration row is empty: give rows with tokens")
    if mask is not None and mask.shape != ids.shape and (mask.dim() != 4 or choices):
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {tuple(ids.shape)}, or 4 dimensions, "
            f"(rows, heads or 1, tokens, tokens); got {tuple(mask.shape)}"
        )


def _sees(batch: Mapping[str, Tensor]) -> bool:
    """Whether any token of a batch is seen; a mask of 4 dimensions may be in any convention."""
    mask = batch.get("attention_mask")
    return mask is None or mask.shape != batch["input_ids"].shape or bool(mask.any())


def _check_ids(batch: Mapping[str, Tensor], tables: Mapping[str, nn.Module | None]) -> None:
    for name, table in tables.items():
        if table is None or name not in batch:
            continue
        least, most = batch[name].min().item(), batch[name].max().item()
        if least < 0 or most >= table.num_embeddings:
            what, cure = _TABLES[name]
            raise ValueError(
                f"calibration has the {what} id {least if least < 0 else most}, and this model's table "
                f"has rows 0 to {table.num_embeddings - 1}: {cure}"
            )


def _check_length(ids: Tensor, positions: nn.Module | None) -> None:
    if positions is None:
        return
    reserved = _reserved(positions)
    tokens = (ids != positions.padding_idx).sum(-1).max().item() if reserved else ids.shape[-1]
    if tokens > positions.num_embeddings - reserved:
        raise ValueError(
            f"a calibration row has {tokens} tokens, and this model has positions for "
            f"{positions.num_embeddings - reserved}: tokenize with truncation=True, "
            f"max_length={positions.num_embeddings - reserved}"
        )
