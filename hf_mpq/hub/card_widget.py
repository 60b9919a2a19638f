"""The example on the page of a model: an input, and what the model itself says of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

TEXT = "The train from Vienna was an hour late, but Anna liked the view."
QUESTION, SIMILAR = "Where was the train from?", ("She enjoyed what she saw.", "The shop closes at six.")
MASKED = "The train was an hour {}."
MOST = 5
"""Answers that are shown."""


def widget(model: nn.Module, folder: Path, task: str) -> list[dict[str, Any]] | None:
    """What the metadata's `widget` says: the answers are written beside the example, since the Hub, which does not
    import hf_mpq, cannot make them; None of tasks that have no such example.

    Args:
        folder: with the tokenizer; without one, and for tasks other than labels and words, there are no answers.
        task: as the Hub calls it.
    """
    tokenizer = _tokenizer(folder, model)
    if task == "fill-mask":
        return _masked(model, tokenizer)
    inputs = {
        "text-classification": {"text": TEXT},
        "token-classification": {"text": TEXT},
        "feature-extraction": {"text": TEXT},
        "question-answering": {"text": QUESTION, "context": TEXT},
        "sentence-similarity": {"source_sentence": TEXT, "sentences": list(SIMILAR)},
    }.get(task)
    if inputs is None:
        return None
    if task == "text-classification" and tokenizer is not None and model.config.num_labels > 1:
        several = model.config.problem_type == "multi_label_classification"
        logits = _logits(model, tokenizer, TEXT)
        if logits is not None:
            chances = logits[0].sigmoid() if several else logits[0].softmax(-1)
            inputs["output"] = _best(chances, model.config.id2label.get)
    return [inputs]


def is_ours(given: Any) -> bool:
    """Whether a widget is one that we wrote, or none: others are their user's."""
    first = given[0] if isinstance(given, list) and given and isinstance(given[0], dict) else {}
    text = str(first.get("text") or first.get("source_sentence"))
    start, end = MASKED.split("{}")
    return not given or text in (TEXT, QUESTION) or (text.startswith(start) and text.endswith(end))


def _masked(model: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> list[dict[str, Any]] | None:
    if tokenizer is None or tokenizer.mask_token is None:
        return None
    text = MASKED.format(tokenizer.mask_token)
    place = tokenizer(text)["input_ids"].index(tokenizer.mask_token_id)
    logits = _logits(model, tokenizer, text)
    if logits is None:
        return [{"text": text}]
    chances = logits[0, place].softmax(-1)
    return [{"text": text, "output": _best(chances, lambda word: tokenizer.decode([word]).strip())}]


def _best(probabilities: torch.Tensor, name) -> list[dict[str, Any]]:
    best = probabilities.float().topk(min(MOST, len(probabilities)))
    pairs = zip(best.indices.tolist(), best.values.tolist())
    return [{"label": str(name(number)), "score": round(score, 3)} for number, score in pairs]


def _logits(model: nn.Module, tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor | None:
    """None of a model that takes more than words, such as their places on a page."""
    try:
        inputs = tokenizer(text, return_tensors="pt").to(model.device)
        with _evaluating(model), torch.inference_mode():
            return model(**inputs).logits
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def _tokenizer(folder: Path, model: nn.Module) -> PreTrainedTokenizerBase | None:
    """The folder's; None where it has none of this model that can be read without code of its own."""
    if not (folder / "tokenizer_config.json").exists():
        return None
    try:
        found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception:  # whatever a damaged file leads to: a card is not what tells of it, `hf-mpq doctor` does
        return None
    return found if len(found) <= getattr(model.config, "vocab_size", 0) else None
