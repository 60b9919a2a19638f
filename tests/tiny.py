"""Tiny random encoders of every family, with every head."""

from pathlib import Path

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
VOCABULARY = 97

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_EXTRA = {
    "albert": {"embedding_size": 24},
    "electra": {"embedding_size": 24},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 2,
    },
    "modernbert": {"cls_token_id": 0, "sep_token_id": 2, "global_attn_every_n_layers": 2, "local_attention": 8},
}
_DISTILBERT = {
    "vocab_size": VOCABULARY,
    "dim": 32,
    "hidden_dim": 56,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": 40,
}

FAMILIES = ["bert", "roberta", "xlm-roberta", "distilbert", "albert", "electra", "deberta-v2", "mpnet", "modernbert"]
_DISTINCT = ("bert", "albert", "deberta-v2", "modernbert")
MOST = [name if name in _DISTINCT else pytest.param(name, marks=pytest.mark.full) for name in FAMILIES]
"""Families whose code differs most run always, the others in the full run."""
HEADS = {
    "bare": AutoModel,
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "question": AutoModelForQuestionAnswering,
    "masked": AutoModelForMaskedLM,
}

TEXTS = {
    "ranking": {"num_labels": 1},
    "numbers": {"num_labels": 3, "problem_type": "regression"},
    "several labels": {"num_labels": 3, "problem_type": "multi_label_classification"},
}
"""What a head of texts may give beside one class."""


def tiny_config(family: str, **changes):
    """A config with odd sizes: 56 is no multiple of 128 groups, 97 none of 8."""
    base = _DISTILBERT if family == "distilbert" else {**_COMMON, **_EXTRA.get(family, {})}
    return CONFIG_MAPPING[family](**{**base, **changes})


def tiny_model(family: str, head: str = "sequence", **changes):
    """A random model with weights large enough that quantization matters, in eval mode."""
    torch.manual_seed(0)
    model = HEADS[head].from_config(tiny_config(family, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and "Norm" not in name and "norm" not in name:
                parameter.normal_(std=0.1)
            elif parameter.dim() == 2:
                parameter.normal_(std=0.15)
    return model


def tiny_batch(rows: int = 3, tokens: int = 11) -> dict[str, torch.Tensor]:
    """Ids with some padding at the end of the last row."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, -3:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


@torch.no_grad()
def outputs(model) -> list[torch.Tensor]:
    """Float tensors that the model gives for the tiny batch, in eval mode."""
    model.eval()
    values = model(**tiny_batch()).values()
    return [value for value in values if isinstance(value, torch.Tensor)]
