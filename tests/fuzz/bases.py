"""Sound folders of every kind, kept in memory, to be damaged."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import calibrate_activations
from tests.plugin.models import mixed_assignment
from tests.tiny import FAMILIES, HEADS, tiny_batch, tiny_model

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
SMALL_DISTILBERT = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24}
BATCH = tiny_batch(2, 5)
KINDS = {
    "mixed": {},
    "float parts": {"embedding_bits": None, "projection_bits": None, "modules_to_not_convert": ["LayerNorm", "key"]},
    "float32": {"scale_dtype": "float32", "float_dtype": "float32", "quantizer": "lsq"},
    "minmax": {"quantizer": "minmax"},
    "columns": {"groups": "columns:4", "bits": 3},
    "masked": {"bits": 4, "mask": "n:m", "mask_options": {"kept": 2, "block": 4}},
    "static": {"activation": "static", "attention_bits": 8},
    "low rank": {"bits": 4, "low_rank": 2},
    "nested": {"bits": (2, 4, 8), "nested": True, "switchable_norms": True},
}
"""Name to fields of the config; without `bits` every precision is in it."""


@dataclass(frozen=True)
class Base:
    """A sound folder: its files, what it is, and the outputs of its model."""

    name: str
    files: dict[str, bytes]
    outputs: Tensor


def names(few: bool = False) -> list[str]:
    """`family storage kind` of every base; a few for a short run, with each storage and most code in them."""
    kinds = [f"bert {storage} {kind}" for storage in ("packed", "trainable") for kind in KINDS]
    families = [f"{family} {storage} mixed" for family in FAMILIES[1:] for storage in ("packed", "trainable")]
    chosen = (
        "bert packed mixed",
        "bert packed float parts",
        "bert packed masked",
        "bert packed nested",
        "bert trainable mixed",
        "modernbert packed mixed",
        "bert packed static shards",
    )
    return list(chosen) if few else [*kinds, *families, "bert packed static shards", "bert trainable mixed shards"]


@cache
def base(name: str) -> Base:
    """The base of that name."""
    family, storage, kind = name.removesuffix(" shards").split(" ", 2)
    model = _model(family, storage, dict(KINDS[kind]))
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        model.save_pretrained(folder, **({"max_shard_size": "2KB"} if name.endswith("shards") else {}))
        files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        return Base(name, files, answer(HEADS["sequence"].from_pretrained(folder)))


def _model(family: str, storage: str, options: dict):
    size = SMALL_DISTILBERT if family == "distilbert" else SMALL
    sizes = {**size, **({"embedding_size": 12} if family in ("albert", "electra") else {})}
    model = tiny_model(family, vocab_size=41, max_position_embeddings=16, **sizes)
    config = MPQConfig(**{"groups": 4, **options})
    if "bits" not in options:
        config.assignment = mixed_assignment(model, config).to_dict()
    model = hf_mpq.quantize(model, config)
    if config.activation == "static":
        calibrate_activations(model, [_batch()])
    return hf_mpq.pack(model) if storage == "packed" else model


def _batch() -> dict[str, Tensor]:
    return {"input_ids": BATCH["input_ids"] % 41, "attention_mask": BATCH["attention_mask"]}


@torch.no_grad()
def answer(model) -> Tensor:
    """Logits for a small batch."""
    found = model.eval()(**_batch())
    return found[0] if isinstance(found, tuple) else found.logits
