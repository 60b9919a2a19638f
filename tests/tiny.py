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
    T5EncoderModel,
)

from hf_mpq.nn.families import FAMILIES as TABLE

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
_OF_RAREST = {
    "enable_pronunciation": True,
    "pronunciation_vocab_size": 13,
    "pronunciation_embed_dim": 8,
    "shape_vocab_size": 17,
    "shape_embed_dim": 8,
}
_PATHS = {
    "max_depth": 2,
    "max_xpath_tag_unit_embeddings": 20,
    "max_xpath_subs_unit_embeddings": 24,
    "tag_pad_id": 19,
    "subs_pad_id": 23,
}
_KEY_VALUE_HEADS = {"num_key_value_heads": 2, "head_dim": 8}
_MORE = {
    "camembert": {},
    "data2vec-text": {},
    "ernie": {"use_task_id": True},
    "bert-generation": {},
    "splinter": {"question_token_id": 5},
    "layoutlm": {"max_2d_position_embeddings": 30},
    "markuplm": _PATHS,
    "roc_bert": _OF_RAREST,
    "xlm-roberta-xl": {},
    "roberta-prelayernorm": {},
    "megatron-bert": {},
    "esm": {"position_embedding_type": "rotary", "mask_token_id": 3},
    "longformer": {"attention_window": 4},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "nomic_bert": {},
    "gte": {},
    "jina_embeddings_v3": {},
    "eurobert": {"num_key_value_heads": 2, "mask_token_id": 3},
    "ultrabert": {},
    "qwen3": _KEY_VALUE_HEADS,
    "gemma3_text": {**_KEY_VALUE_HEADS, "sliding_window": 2, "use_bidirectional_attention": True},
    "t5": {"d_kv": 8, "d_ff": 56, "feed_forward_proj": "gated-gelu"},
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
MORE = [name for name in _MORE if name in CONFIG_MAPPING]
"""Other families that this version of transformers has, which `tests/contracts/test_more_families.py` runs."""
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
    base = _DISTILBERT if family == "distilbert" else {**_COMMON, **_EXTRA.get(family, {}), **_MORE.get(family, {})}
    return CONFIG_MAPPING[family](**{**base, **changes})


def tiny_model(family: str, head: str = "sequence", **changes):
    """A random model with weights large enough that quantization matters, in eval mode."""
    torch.manual_seed(0)
    config = tiny_config(family, **changes)
    model = (T5EncoderModel(config) if family == "t5" else HEADS[head].from_config(config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and "Norm" not in name and "norm" not in name:
                parameter.normal_(std=0.1)
            elif parameter.dim() == 2:
                parameter.normal_(std=0.15)
    return model


def head_class(family: str, head: str):
    """What loads such a model."""
    return T5EncoderModel if family == "t5" else HEADS[head]


def heads_of(family: str) -> list[str]:
    """The heads that transformers has for a family, and that take the tiny batch."""
    kind = type(tiny_config(family))
    left_out = {"t5": set(HEADS) - {"bare"}, "longformer": {"question"}}.get(family, set())
    return [name for name, auto in HEADS.items() if kind in auto._model_mapping and name not in left_out]


def tiny_batch(rows: int = 3, tokens: int = 11) -> dict[str, torch.Tensor]:
    """Ids with some padding at the end of the last row."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, -3:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


def batch_for(family: str, **sizes: int) -> dict[str, torch.Tensor]:
    """The tiny batch, with what models of a family take beside it, such as where words stand on a page."""
    batch, config, generator = tiny_batch(**sizes), tiny_config(family), torch.Generator().manual_seed(2)
    for name, size in getattr(TABLE.get(family), "inputs", ()):
        width = getattr(config, size) if isinstance(size, str) else size
        shape = batch["input_ids"].shape if width is None else (*batch["input_ids"].shape, width)
        values = torch.randint(12, shape, generator=generator)
        batch[name] = values.sort(-1).values if width else values  # boxes end after they begin
    return batch


@torch.no_grad()
def outputs(model, batch=None) -> list[torch.Tensor]:
    """Float tensors that the model gives for a batch, by default the tiny one, in eval mode."""
    model.eval()
    values = model(**(tiny_batch() if batch is None else batch)).values()
    return [value for value in values if isinstance(value, torch.Tensor)]
