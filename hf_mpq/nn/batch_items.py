"""What a user gives as examples, told apart: rows of token ids, batches of tensors, texts, and what is none of them."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from numbers import Integral, Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

ROWS = "rows with input_ids, batches of tensors, what a tokenizer returned, or texts with tokenizer=..."
_NO_INPUTS = (
    "special_tokens_mask",
    "offset_mapping",
    "overflow_to_sample_mapping",
    "overflowing_tokens",
    "length",
    "num_truncated_tokens",
)
"""What a tokenizer may return beside a model's inputs."""
TOKENIZE = "tokenize them first, for example with rows.map(tokenizer, input_columns='text')"


def items_of(given: Any, choices: bool = False, tokenizer: Any = None, longest: int | None = None) -> Iterator[Mapping]:
    """Rows and batches, each a mapping with `input_ids`: of a row a list or a tensor `(tokens,)`, of a batch a tensor.

    Args:
        given: see `batches_of`.
        choices: whether a row is `(choices, tokens)`.
        tokenizer: of texts.
        longest: tokens after which texts are cut; None: as long as the tokenizer says.

    Raises:
        ValueError: for anything else, with what to give instead.
    """
    _refuse(given)
    if isinstance(given, Mapping):
        yield from _of_encoding(given, choices)
        return
    items = (given[number] for number in range(len(given))) if _is_indexed(given) else iter(given)
    for first in items:
        items = chain([first], items)
        break
    else:
        return
    if isinstance(first, Integral):
        yield {"input_ids": list(items)}
        return
    for item in items:
        if isinstance(item, str) or _is_pair(item):
            yield _tokenized((item,) if isinstance(item, str) else item, tokenizer, longest)
        else:
            yield from _of_item(item, choices)


def _tokenized(texts: Sequence[str], tokenizer: Any, longest: int | None) -> Mapping:
    if tokenizer is None:
        raise ValueError(
            "calibration holds texts: give their tokenizer too, tokenizer=AutoTokenizer.from_pretrained("
            "...), or give tokenized rows"
        )
    most = tokenizer.model_max_length if longest is None else min(longest, tokenizer.model_max_length)
    return tokenizer(*texts, truncation=True, max_length=most)


def _of_item(item: Any, choices: bool) -> Iterator[Mapping]:
    if isinstance(item, Mapping):
        yield from _of_encoding(item, choices)
    elif _are_ids(item) and _depth(item) == 1 + choices:
        yield {"input_ids": item}
    else:
        raise ValueError(f"calibration has an item {_described(item)}: give {ROWS}")


def _of_encoding(given: Mapping, choices: bool) -> Iterator[Mapping]:
    """A row or a batch as it is; of lists that have not one length, the rows."""
    if "input_ids" not in given:
        raise ValueError(
            f"calibration rows need input_ids, these have {sorted(map(str, given))}: {TOKENIZE}, or give "
            "the texts alone and tokenizer=..."
        )
    ids = given["input_ids"]
    if not _are_ids(ids):
        raise ValueError(f"input_ids of a calibration row are {_described(ids)}, and no token ids: {TOKENIZE}")
    if _depth(ids) <= 1 + choices:
        yield given
    elif isinstance(ids, Tensor | np.ndarray) and ids.dtype != object:
        yield {name: _tensor(value) for name, value in given.items() if name not in _NO_INPUTS and _are_ids(value)}
    else:
        columns = {name: value for name, value in given.items() if _has_length(value, len(ids))}
        yield from ({name: value[number] for name, value in columns.items()} for number in range(len(ids)))


def _tensor(values: Any) -> Tensor:
    found = torch.as_tensor(values)
    return found.clone() if found.is_inference() else found


def _are_ids(values: Any) -> bool:
    """Whether they can be token ids, or what goes with them: numbers, or lists of them."""
    if isinstance(values, Tensor | np.ndarray) and values.dtype != object:
        return not isinstance(values, np.ndarray) or values.dtype.kind in "iufb"
    if not isinstance(values, np.ndarray | Sequence) or isinstance(values, str | bytes):
        return False
    return all(_are_ids(one) for one in values) if len(values) and not isinstance(values[0], Number) else True


def _depth(ids: Any) -> int:
    """Axes of an array, or of lists in lists."""
    if isinstance(ids, Tensor | np.ndarray) and ids.dtype != object:
        return ids.ndim
    return 1 + (_depth(ids[0]) if len(ids) and isinstance(ids[0], Sequence | Tensor | np.ndarray) else 0)


def _has_length(value: Any, length: int) -> bool:
    return isinstance(value, Sequence | Tensor | np.ndarray) and not isinstance(value, str) and len(value) == length


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(one, str) for one in item)


def _refuse(given: Any) -> None:
    """Raise ValueError for what is often given and cannot be used."""
    if isinstance(given, Path) or (isinstance(given, str) and (given.endswith("/") or Path(given).exists())):
        raise ValueError(
            f"calibration is a path, {str(given)!r}: load what is there, for example with "
            "datasets.load_dataset, and tokenize it"
        )
    if isinstance(given, str):
        raise ValueError("calibration is one text: give a list of texts, a few hundred, with tokenizer=...")
    if _is_a("pandas", "DataFrame", given):
        raise ValueError(
            "calibration is a pandas frame: give its rows, frame.to_dict('records'), if they have "
            "input_ids, or list(frame['text']) with tokenizer=..."
        )
    if _is_a("datasets", "DatasetDict", given) or _is_a("datasets", "IterableDatasetDict", given):
        split = next(iter(given), "train")
        raise ValueError(f"calibration is a DatasetDict: choose a split, such as calibration[{split!r}]")
    if isinstance(given, Tensor) or (isinstance(given, np.ndarray) and given.ndim > 1 and given.dtype != object):
        raise ValueError(
            f"calibration is {_described(given)}, which does not say what is padding: give "
            "{'input_ids': ids, 'attention_mask': mask}, as a tokenizer returns it"
        )
    if not isinstance(given, Iterable | Dataset):
        raise ValueError(f"calibration is {_described(given)}: give {ROWS}")


def _is_indexed(given: Any) -> bool:
    """Whether it is a data set of torch that is asked for rows by number, such as a Subset."""
    return isinstance(given, Dataset) and not isinstance(given, Iterable)


def _is_a(module: str, kind: str, given: Any) -> bool:
    """Whether it is an instance of a class of a library that may not be imported: then nothing is."""
    return module in sys.modules and isinstance(given, getattr(sys.modules[module], kind))


def _described(given: Any) -> str:
    shape = f" of shape {tuple(given.shape)}" if isinstance(given, Tensor | np.ndarray) else ""
    return f"of type {type(given).__name__}{shape}"
