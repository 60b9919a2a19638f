"""Measures how long a model of some architecture takes here with fewer rows and heads, once for each machine."""

import copy
import hashlib
import json
import logging
import os
import statistics
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from ..core import Assignment, MatrixAssignment
from ..cost.latency import LatencyTable, measured_by
from ..nn import family_of
from ..runtime import BACKENDS, prepare
from ..runtime.int8.build import fingerprint
from ..runtime.prepare import AUTOMATIC
from .api import pack, quantize
from .config import MPQConfig

logger = logging.getLogger(__name__)

SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Of the feed-forward rows, and of the heads, that are left; at least one stays."""
ROUNDS, LEAST_SECONDS = 15, 0.02
"""Turns of each model, and how long one measurement lasts at least."""


@measured_by
def latency_table(architecture: Mapping[str, Any], batch: int, tokens: int) -> LatencyTable:
    """The table of an architecture; measured at the first call, which takes a minute or two, and kept in the folder
    `HF_MPQ_CACHE` (default `~/.cache/hf_mpq`) under the fingerprint of machine, threads and versions.

    Args:
        architecture: `config.to_dict()` of a model of a known family.
        batch, tokens: of the input.
    """
    words = json.dumps(_relevant(architecture), sort_keys=True, default=str)
    return _known(words, batch, tokens, torch.get_num_threads())


@lru_cache
def _known(words: str, batch: int, tokens: int, threads: int) -> LatencyTable:
    key = hashlib.sha256(f"{words} {batch} {tokens} {threads} {fingerprint()}".encode()).hexdigest()[:16]
    file = Path(os.environ.get("HF_MPQ_CACHE", "~/.cache/hf_mpq")).expanduser() / f"latency-{key}.json"
    table = _read(file)
    if table is None:
        logger.warning(f"measuring how long this model takes here at {batch} x {tokens}, once for this machine; a "
                       "minute or two")  # fmt: skip
        table = measure_latencies(json.loads(words), batch, tokens)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"model": json.loads(words), "batch": batch, "tokens": tokens,
                                       "threads": threads, "table": vars(table)}, indent=1))  # fmt: skip
        partial.replace(file)
    return table


def _read(file: Path) -> LatencyTable | None:
    try:
        content = json.loads(file.read_text())["table"]
        points = {name: tuple(tuple(point) for point in content[name]) for name in ("rows", "heads")}
        return LatencyTable(float(content["whole"]), points["rows"], points["heads"], int(content["layers"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _relevant(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Without what does not change how long it takes."""
    noise = ("label", "dtype", "version", "_name_or_path", "architectures", "quantization_config", "problem_type",
             "dropout", "prob", "token_id", "initializer", "use_cache")  # fmt: skip
    return {key: value for key, value in architecture.items() if not any(word in key for word in noise)}


def measure_latencies(architecture: Mapping[str, Any], batch: int, tokens: int) -> LatencyTable:
    """Time models with random weights side by side, in turn."""
    config = AutoConfig.for_model(**architecture)
    model = AutoModel.from_config(config).eval()
    family = family_of(model)
    links = family.links(model)
    value = next(link for link in links if link.kind == "value")
    inner = next(link for link in links if link.kind in ("pointwise", "gated")).blocks[0].count
    rows = sorted({max(round(share * inner), 1) for share in SHARES})
    heads = sorted({max(round(share * value.heads), 1) for share in SHARES}) if family.removable_heads else []
    models = {("rows", count): _pruned(model, count, value.heads) for count in rows}
    models |= {("heads", count): _pruned(model, inner, count) for count in heads}
    ids = torch.randint(config.vocab_size, (batch, tokens), generator=torch.Generator().manual_seed(0))
    taken = _milliseconds(models, ids)
    whole = taken["rows", inner]
    layers = sum(link.kind == "value" for link in links) * family.calls(config)
    return LatencyTable(
        whole, tuple((float(count), taken["rows", count]) for count in rows),
        tuple((float(count), taken["heads", count]) for count in heads) or ((0.0, whole), (float(value.heads), whole)),
        layers,
    )  # fmt: skip


def _pruned(model: nn.Module, rows: int, heads: int) -> nn.Module:
    """A prepared copy with so many feed-forward rows and heads left in every layer."""
    config = MPQConfig(bits=8, groups="channel", quantizer_options={"scale": "max", "two_bits": "integer"})
    bits = {name: torch.full((spec.layout.count,), 8) for name, spec in config.resolve(model).weights.items()}
    for link in family_of(model).links(model):
        left = heads * link.blocks[0].count // link.heads if link.kind in ("value", "scores") else rows
        for block in link.blocks:
            bits[block.name][block.start + left : block.start + block.count] = 0
    matrices = {name: MatrixAssignment(tuple(one.tolist())) for name, one in bits.items()}
    config.assignment = Assignment(matrices).to_dict()
    packed = pack(quantize(copy.deepcopy(model), config))
    return prepare(packed, next(name for name in AUTOMATIC if BACKENDS[name].unavailable(packed) is None))


def _milliseconds(models: Mapping[Any, nn.Module], ids: Tensor) -> dict[Any, float]:
    calls, taken = {}, {key: [] for key in models}
    with torch.inference_mode():
        for key, model in models.items():
            model(ids)
            start = time.perf_counter()
            model(ids)
            calls[key] = max(1, round(LEAST_SECONDS / (time.perf_counter() - start)))
        for _ in range(ROUNDS):
            for key, model in models.items():
                start = time.perf_counter()
                for _ in range(calls[key]):
                    model(ids)
                taken[key].append(1000 * (time.perf_counter() - start) / calls[key])
    return {key: statistics.median(times) for key, times in taken.items()}
