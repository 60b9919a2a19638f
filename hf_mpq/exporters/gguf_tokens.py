"""A tokenizer as the metadata of a GGUF file."""

import json
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {_LLAMA_3: "llama-bpe"}
"""How byte-level tokenizers cut texts where that is not GPT-2's way, and its name there: EuroBERT cuts as Llama 3."""
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unk", "sep": "sep", "pad": "pad", "mask": "mask"}
"""Names of special tokens there and here."""


def write_tokens(writer: Any, tokenizer: Any, rows: int) -> None:
    """Write the vocabulary, its special tokens, and how texts are cut.

    Args:
        writer: `gguf.GGUFWriter`.
        tokenizer: fast: WordPiece, byte-level BPE or Unigram; None writes that there is no vocabulary.
        rows: of the word table, which the list of tokens is filled up to.

    Raises:
        ValueError: for another kind of tokenizer, or one with more tokens than the table has rows.
    """
    if tokenizer is None:
        writer.add_tokenizer_model("no_vocab")
        writer.add_vocab_size(rows)
        return
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    kind = content["model"].get("type")
    if kind not in _WRITERS:
        raise ValueError(
            f"llama.cpp has WordPiece, byte-level BPE and Unigram vocabularies, the tokenizer has {kind or 'none'}: "
            "give another one, or none and token ids, or export it as 'onnx'"
        )
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the word table {rows} rows: give the model's own tokenizer"
        )
    _WRITERS[kind](writer, tokenizer, content, _listed(tokenizer, rows))
    special = {there: getattr(tokenizer, f"{here}_token_id", None) for there, here in SPECIAL.items()}
    for name, number in zip(("bos", "eos"), _around(tokenizer)):
        getattr(writer, f"add_add_{name}_token")(number is not None)
        special[name] = special[name] if number is None else number
    for name, number in special.items():
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)


def _around(tokenizer: Any) -> list[int | None]:
    """What the tokenizer puts before and after a text; None where that is nothing.

    Raises:
        ValueError: where it is several tokens.
    """
    given = tokenizer.backend_tokenizer.encode("a")
    text = [place for place, added in enumerate(given.special_tokens_mask) if not added]
    parts = (given.ids[: text[0]], given.ids[text[-1] + 1 :]) if text else ([], [])
    if any(len(part) > 1 for part in parts):
        raise ValueError(
            f"llama.cpp puts at most one token before and one after a text, this tokenizer {parts}: give none, and "
            "token ids, or export it as 'onnx'"
        )
    return [part[0] if part else None for part in parts]


def _listed(tokenizer: Any, rows: int) -> tuple[list[str], list[int]]:
    """Tokens by their number, and their types."""
    from gguf import TokenType

    tokens = [f"[PAD{number}]" for number in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    special, added = set(tokenizer.all_special_ids), set(tokenizer.get_added_vocab().values())
    for token, number in tokenizer.get_vocab().items():
        tokens[number] = token
        types[number] = int(
            TokenType.CONTROL if number in special else TokenType.USER_DEFINED if number in added else TokenType.NORMAL
        )
    return tokens, types


def _word_piece(writer: Any, tokenizer: Any, content: Mapping, listed: tuple[list[str], list[int]]) -> None:
    """Pieces at the start of a word get a mark there, those within one lose theirs."""
    from gguf import TokenType

    tokens, types = listed
    kept = int(TokenType.CONTROL), int(TokenType.UNUSED)
    tokens = [
        token if kind in kept else token[2:] if token.startswith("##") else f"\u2581{token}"
        for token, kind in zip(tokens, types)
    ]
    _write(writer, "bert", "default", tokens, types)
    small, accents = _normal(content.get("normalizer"))
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", small)
    writer.add_bool("tokenizer.ggml.normalizer.strip_accents", small if accents is None else accents)


def _normal(normalizer: Mapping | None) -> tuple[bool, bool | None]:
    """Whether letters are made small and accents are taken off; None: as the letters."""
    if normalizer is None:
        return False, False
    if normalizer["type"] == "BertNormalizer":
        return normalizer["lowercase"], normalizer["strip_accents"]
    kinds = {one["type"] for one in normalizer.get("normalizers", [normalizer])}
    return "Lowercase" in kinds, "StripAccents" in kinds


def _bytes(writer: Any, tokenizer: Any, content: Mapping, listed: tuple[list[str], list[int]]) -> None:
    _write(writer, "gpt2", _cut(content.get("pre_tokenizer") or {}), *listed)
    merges = [one if isinstance(one, str) else " ".join(one) for one in content["model"]["merges"]]
    writer.add_token_merges(merges)


def _cut(before: Mapping) -> str:
    """llama.cpp's name for how a byte-level tokenizer cuts texts before it merges.

    Raises:
        ValueError: where it has none.
    """
    steps = before.get("pretokenizers", [before])
    levels = [one for one in steps if one.get("type") == "ByteLevel"]
    splits = [one["pattern"].get("Regex") for one in steps if one.get("type") == "Split"]
    spaced = any(one.get("add_prefix_space") for one in levels)
    known = len(levels) == 1 and len(levels) + len(splits) == len(steps) and not spaced
    if known and levels[0].get("use_regex", True) and not splits:
        return "roberta-bpe"
    if known and len(splits) == 1 and splits[0] in PATTERNS and not levels[0].get("use_regex", True):
        return PATTERNS[splits[0]]
    kinds = "a space before texts" if spaced else "a way of cutting texts"
    raise ValueError(
        f"the tokenizer has {kinds} that llama.cpp does not know: give none, and token ids, or export it as 'onnx'"
    )


def _unigram(writer: Any, tokenizer: Any, content: Mapping, listed: tuple[list[str], list[int]]) -> None:
    from gguf import TokenType

    tokens, types = listed
    model = content["model"]
    scores = [-10000.0] * len(tokens)
    for number, (_, score) in enumerate(model["vocab"]):
        scores[number] = float(score)
    if model.get("unk_id") is not None:
        types[model["unk_id"]] = int(TokenType.UNKNOWN)
    _write(writer, "t5", "default", tokens, types)
    writer.add_token_scores(scores)
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    normalizer = content.get("normalizer") or {}
    for one in normalizer.get("normalizers", [normalizer]):
        if one.get("precompiled_charsmap"):
            writer.add_precompiled_charsmap(b64decode(one["precompiled_charsmap"]))


def _write(writer: Any, model: str, cut: str, tokens: list[str], types: list[int]) -> None:
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types(types)


_WRITERS = {"WordPiece": _word_piece, "BPE": _bytes, "Unigram": _unigram}
