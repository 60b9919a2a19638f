"""Tokens that never occur leave the word table and the tokenizer, and can come back."""

import copy
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..core import read_json
from ..core.files import write_text
from ..core.folders import together
from .token_models import needed, reduced, vocabulary

FILE, FULL, TOKENIZER = "pruned_vocabulary.json", "full_tokenizer", "tokenizer.json"
_TEXTS_AT_ONCE = 1000


@dataclass(frozen=True)
class PrunedVocabulary:
    """What undoes the pruning of a vocabulary.

    Attributes:
        kept: old id of each row that stayed, ascending.
        size: rows that the word table had.
        config_ids: `..._token_id` of the model's config, before.
        tokenizer: the full one.
    """

    kept: tuple[int, ...]
    size: int
    config_ids: dict[str, int]
    tokenizer: PreTrainedTokenizerBase

    def save(self, folder: str | Path) -> None:
        """Write the map and the full tokenizer into a folder, beside the pruned model and tokenizer.

        The map names the tokenizer's folder, and is replaced before an older one goes, so that the two always fit.
        """
        folder = Path(folder)
        older = sorted(folder.glob(f"{FULL}*"))
        place = folder / next(name for name in _names() if folder / name not in older)
        with together(place) as new:
            self.tokenizer.save_pretrained(new)
        content = {"size": self.size, "config_ids": self.config_ids, "tokenizer": place.name, "kept": self.kept}
        write_text(folder / FILE, json.dumps(content))
        for one in older:
            shutil.rmtree(one, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | Path) -> "PrunedVocabulary":
        """What `save` wrote.

        Raises:
            OSError: it is not there.
            ValueError: the map or the tokenizer is damaged.
        """
        folder = Path(folder)
        content = read_json(folder / FILE, "copy the folder again")
        if not _is_map(content):
            raise ValueError(f"{folder / FILE} is not the map of a pruned vocabulary: copy the folder again")
        place = folder / content.get("tokenizer", FULL)
        if not place.is_dir():
            raise FileNotFoundError(f"{place} is missing, which {folder / FILE} needs: copy the folder again")
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the tokenizer in {place} cannot be read ({reason}): copy the folder again") from error
        return cls(tuple(content["kept"]), content["size"], content["config_ids"], tokenizer)


def _is_map(content: dict) -> bool:
    """Whether the fields of a map are there, and what was kept are rows of the table."""
    kept, size, ids = (content.get(name) for name in ("kept", "size", "config_ids"))
    name = content.get("tokenizer", FULL)
    if not (isinstance(kept, list) and type(size) is int and isinstance(ids, dict) and isinstance(name, str)):
        return False
    whole = all(type(number) is int for number in (*kept, *ids.values())) and all(0 <= row < size for row in kept)
    return whole and sorted(set(kept)) == kept and name.startswith(FULL) and Path(name).name == name


def _names() -> Iterator[str]:
    yield FULL
    yield from (f"{FULL}-{number}" for number in count(2))


def prune_vocabulary(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, corpus: Iterable[str]
) -> tuple[nn.Module, PreTrainedTokenizerBase, PrunedVocabulary]:
    """Drop the rows of the word table whose tokens do not occur in a corpus, from the model in place.

    Special and added tokens, single characters (bytes, continuations) and whatever they do not spell are kept, so that
    every text can still be tokenized: texts of the corpus exactly as before, others perhaps into more pieces.

    Args:
        model: float; quantize it afterwards.
        tokenizer: a fast one.
        corpus: texts such as the model will read, the more the better.

    Returns:
        The model, a smaller tokenizer, and what undoes both.

    Raises:
        ValueError: when the model is quantized, or the tokenizer is not a fast one of a known kind.
    """
    if getattr(model, "is_quantized", False):
        raise ValueError("rows of a quantized table cannot be dropped: prune the float model, then quantize it")
    if not tokenizer.is_fast:
        raise ValueError("only the vocabulary of a fast tokenizer can be pruned; load it with use_fast=True")
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = _kept_ids(content, tokenizer, corpus)
    size = model.get_input_embeddings().num_embeddings
    pruned = PrunedVocabulary(tuple(kept), size, _config_ids(model), copy.deepcopy(tokenizer))
    new = {old: position for position, old in enumerate(kept)}
    _take_rows(model, kept)
    _set_config_ids(model, {name: new[old] for name, old in pruned.config_ids.items() if old in new})
    return model, _smaller(tokenizer, content, new), pruned


def restore_vocabulary(
    model: nn.Module, pruned: PrunedVocabulary, original: Tensor | None = None
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Undo `prune_vocabulary`, in place: the full word table, with every kept row as it is in the model now.

    Args:
        model: float; of a quantized one `model.dequantize()`.
        pruned: from `prune_vocabulary`, or `PrunedVocabulary.load(folder)`.
        original: the full table `(tokens, width)`, for the rows that were dropped; None leaves them zero.

    Returns:
        The model and the full tokenizer.

    Raises:
        ValueError: when the model is quantized, or its table is not the pruned one.
    """
    if getattr(model, "is_quantized", False):
        raise ValueError("a quantized table cannot grow: call model.dequantize() first")
    tables = _tables(model)
    if len(tables[0]) != len(pruned.kept):
        raise ValueError(
            f"the word table has {len(tables[0])} rows, the pruned vocabulary {len(pruned.kept)}: it "
            "belongs to another model"
        )
    rows = [table.detach().clone() for table in tables]
    model.resize_token_embeddings(pruned.size, mean_resizing=False)
    with torch.no_grad():
        for table, known in zip(_tables(model), rows):
            table.zero_()
            if original is not None and table.dim() == 2:
                table.copy_(original)
            table[list(pruned.kept)] = known
    _set_config_ids(model, pruned.config_ids)
    return model, copy.deepcopy(pruned.tokenizer)


def _kept_ids(content: dict, tokenizer: PreTrainedTokenizerBase, corpus: Iterable[str]) -> list[int]:
    """Old ids that stay, ascending."""
    tokens, used = vocabulary(content["model"]), set()
    names = {number: token for token, number in tokens.items()}
    for texts in _parts(corpus):
        used.update(*tokenizer(texts, add_special_tokens=False)["input_ids"])
    stays = needed(content["model"], {names[number] for number in used if number in names})
    added = {token["id"] for token in content["added_tokens"]}
    return sorted({tokens[token] for token in stays if token in tokens} | added)


def _parts(corpus: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(corpus)
    while texts := list(islice(rest, _TEXTS_AT_ONCE)):
        yield texts


def _smaller(tokenizer: PreTrainedTokenizerBase, content: dict, new: dict[int, int]) -> PreTrainedTokenizerBase:
    """The tokenizer over the kept tokens, `new` from old id to new."""
    content = copy.deepcopy(content)
    tokens = {token: new[old] for token, old in vocabulary(content["model"]).items() if old in new}
    content["model"] = reduced(content["model"], tokens)
    for token in content["added_tokens"]:
        token["id"] = new[token["id"]]
    content["post_processor"] = _renumbered(content["post_processor"], new)
    if content.get("padding"):
        content["padding"]["pad_id"] = new[content["padding"]["pad_id"]]
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in Path(folder).iterdir():
            if file.name not in (TOKENIZER, "tokenizer_config.json", "special_tokens_map.json"):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        (Path(folder) / TOKENIZER).write_text(json.dumps(content, ensure_ascii=False))
        smaller = type(tokenizer).from_pretrained(folder)
    smaller.name_or_path = tokenizer.name_or_path
    return smaller


def _renumbered(part, new: dict[int, int]):
    """A post-processor with new ids: lists called `ids`, and pairs of a token and its id."""
    if isinstance(part, dict):
        return {
            key: [new[one] for one in value] if key == "ids" else _renumbered(value, new) for key, value in part.items()
        }
    if isinstance(part, list) and len(part) == 2 and isinstance(part[0], str) and isinstance(part[1], int):
        return [part[0], new[part[1]]]
    return [_renumbered(one, new) for one in part] if isinstance(part, list) else part


def _config_ids(model: nn.Module) -> dict[str, int]:
    return {
        name: value
        for name, value in model.config.to_dict().items()
        if name.endswith("_token_id") and isinstance(value, int)
    }


def _set_config_ids(model: nn.Module, ids: dict[str, int]) -> None:
    for name, value in ids.items():
        setattr(model.config, name, value)
    table = model.get_input_embeddings()
    if table.padding_idx is not None:
        table.padding_idx = ids.get("pad_token_id")


def _tables(model: nn.Module) -> list[Tensor]:
    """The word table, and what else has one entry for each token: a decoder's own weight and bias."""
    table, decoder = model.get_input_embeddings().weight, model.get_output_embeddings()
    own = [] if decoder is None else [one for one in (decoder.weight, decoder.bias) if one is not None]
    return [table, *(one for one in own if one is not table)]


@torch.no_grad()
def _take_rows(model: nn.Module, kept: Sequence[int]) -> None:
    """Keep some rows, in this order."""
    chosen = [table[list(kept)] for table in _tables(model)]
    for table, rows in zip(_tables(model), chosen):
        table[: len(kept)] = rows
    model.resize_token_embeddings(len(kept))
