"""Encoders that other runtimes run as BERT: what they are made of, and the two layers of their classifiers."""

from typing import NamedTuple

from torch import nn
from transformers import PretrainedConfig

from ..nn import family_of
from ..nn.naming import body_name, body_of

SHIFTED = ("camembert", "roberta", "xlm-roberta")
"""Whose positions begin behind the number of the padding token."""
KINDS = ("bert", "distilbert", *SHIFTED)
"""Model types with learned positions and norms after the blocks."""


class Head(NamedTuple):
    """A classifier of texts, which is two linear layers on the first token.

    Attributes:
        first, last: names of the layers in the model.
        activation: between them.
    """

    first: str
    last: str
    activation: str


_HEADS = {
    "bert": Head("bert.pooler.dense", "classifier", "tanh"),
    "distilbert": Head("pre_classifier", "classifier", "relu"),
    **dict.fromkeys(SHIFTED, Head("classifier.dense", "classifier.out_proj", "tanh")),
}


def check_kind(model: nn.Module, format: str) -> None:
    """Raise ValueError where a model is of none of the kinds, or has a head that is no classifier of texts."""
    kind, other = body_of(model).config.model_type, "export it as 'onnx', 'openvino' or 'dense'"
    if kind not in KINDS or family_of(model) is None:
        raise ValueError(f"{format} is written for {', '.join(KINDS)}, this is {kind!r}: {other}")
    if body_name(model) and head_of(model) is None:
        raise ValueError(
            f"{format} has no head for {type(model).__name__}, only classifiers of texts: {other}, or its encoder "
            "alone (hf_mpq.extract)"
        )


def head_of(model: nn.Module) -> Head | None:
    """Of a classifier of texts; None of everything else."""
    head, modules = _HEADS.get(body_of(model).config.model_type), dict(model.named_modules())
    sound = head is not None and "ForSequenceClassification" in type(model).__name__
    return head if sound and head.first in modules and head.last in modules else None


def first_position(config: PretrainedConfig) -> int:
    """The row of the table of positions that the first token takes."""
    return config.pad_token_id + 1 if config.model_type in SHIFTED else 0
