"""What a tokenizer's model needs of its vocabulary, and the model with fewer tokens; in the terms of tokenizer.json."""

from collections.abc import Collection, Mapping


def needed(model: Mapping, used: Collection[str]) -> set[str]:
    """Tokens that must stay so that every text can be tokenized, and texts of `used` tokens as before: those tokens,
    what they are merged from, single characters, and what single characters do not spell.

    Raises:
        ValueError: for a kind of tokenizer whose vocabulary cannot be cut.
    """
    kinds = {"WordPiece": _word_pieces, "BPE": _merged, "Unigram": _unigrams}
    if model["type"] not in kinds:
        raise ValueError(
            f"the vocabulary of a {model['type']} tokenizer cannot be pruned; those of {', '.join(kinds)} can"
        )
    return kinds[model["type"]](model, set(used))


def reduced(model: Mapping, tokens: Mapping[str, int]) -> dict:
    """The model with `tokens` only, token to new id; ids count from 0 without gaps among them and the added tokens."""
    if model["type"] == "Unigram":
        scores = {token: [token, score] for token, score in model["vocab"]}
        unknown = model.get("unk_id")
        new = None if unknown is None else tokens[model["vocab"][unknown][0]]
        return {**model, "vocab": [scores[token] for token in sorted(tokens, key=tokens.get)], "unk_id": new}
    known = {token: tokens[token] for token in model["vocab"] if token in tokens}
    if model["type"] == "WordPiece":
        return {**model, "vocab": known}
    merges = [merge for merge in model["merges"] if {*_pair(merge), _result(model, merge)} <= known.keys()]
    return {**model, "vocab": known, "merges": merges}


def vocabulary(model: Mapping) -> dict[str, int]:
    """Token to id."""
    if model["type"] == "Unigram":
        return {token: number for number, (token, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _word_pieces(model: Mapping, used: set[str]) -> set[str]:
    prefix, vocab = model["continuing_subword_prefix"], model["vocab"]

    def spelled(token: str) -> bool:
        inside = token.startswith(prefix) and token != prefix
        first, *rest = token.removeprefix(prefix) if inside else token
        pieces = [f"{prefix}{first}" if inside else first, *(f"{prefix}{letter}" for letter in rest)]
        return token not in pieces and all(piece in vocab for piece in pieces)

    return used | {model["unk_token"]} | {token for token in vocab if not spelled(token)}


def _unigrams(model: Mapping, used: set[str]) -> set[str]:
    vocab = vocabulary(model)
    unknown = {model["vocab"][model["unk_id"]][0]} if model.get("unk_id") is not None else set()
    bytes_ = {token for token in vocab if token.startswith("<0x")}
    unspelled = {token for token in vocab if len(token) == 1 or not all(letter in vocab for letter in token)}
    return used | unknown | bytes_ | unspelled


def _merged(model: Mapping, used: set[str]) -> set[str]:
    """The used tokens and the alphabet, with everything on the way to them."""
    parts: dict[str, list[str]] = {}
    for merge in model["merges"]:
        parts.setdefault(_result(model, merge), []).extend(_pair(merge))
    waiting = [*used, *(token for token in model["vocab"] if token not in parts)]
    kept: set[str] = set()
    while waiting:
        token = waiting.pop()
        if token not in kept:
            kept.add(token)
            waiting += parts.get(token, [])
    return kept


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _result(model: Mapping, merge: str | list[str]) -> str:
    left, right = _pair(merge)
    return left + right.removeprefix(model.get("continuing_subword_prefix") or "")
