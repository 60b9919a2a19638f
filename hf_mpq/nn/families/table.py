"""The families that are known."""

from torch import nn
from transformers import PretrainedConfig

from ..naming import body_name, body_of, encoders_inside
from .family import Family
from .originals import ALBERT, BERT, DEBERTA_V2, DISTILBERT, ELECTRA, MODERNBERT, MPNET, ROBERTA
from .variations import VARIATIONS

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "distilbert": DISTILBERT,
    "albert": ALBERT,
    "electra": ELECTRA,
    "deberta-v2": DEBERTA_V2,
    "mpnet": MPNET,
    "modernbert": MODERNBERT,
    **VARIATIONS,
}
"""`config.model_type` to family."""


def family_of(model: nn.Module) -> Family | None:
    """The family of a model by the `config.model_type` of its encoder; None when it is unknown, or several encoders are
    inside."""
    several = not body_name(model) and len(encoders_inside(model)) > 1
    return None if several else family_for(body_of(model).config)


def family_for(config: PretrainedConfig) -> Family | None:
    """The family that a config names; None when it is unknown."""
    found = FAMILIES.get(config.model_type)
    return None if found is None else found.of(config)
