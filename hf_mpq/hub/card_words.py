"""What the template of the model card is filled with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..core import read_json
from ..nn.precision import nested_matrices
from ..report.measures.size_report import SizeReport, size_report
from .facts import CardFacts

_WARNINGS = {
    "packed": "Without it transformers only warns (`Unknown quantization type, got mpq`) and makes up **random "
    "weights**.",
    "trainable": "Without it transformers only warns (`Unknown quantization type, got mpq`) and loads float weights.",
}
_EMBEDDERS = ("SentenceTransformer", "CrossEncoder", "SparseEncoder")
_PLACES = ("embeddings", "encoder", "head")


@dataclass(frozen=True)
class HeadTask:
    """What a head does: the end of its class's name, the class that loads it, and the Hub's name for the task."""

    ending: str
    loader: str
    pipeline: str


_TASKS = (
    HeadTask("ForSequenceClassification", "AutoModelForSequenceClassification", "text-classification"),
    HeadTask("ForTokenClassification", "AutoModelForTokenClassification", "token-classification"),
    HeadTask("ForQuestionAnswering", "AutoModelForQuestionAnswering", "question-answering"),
    HeadTask("ForMaskedLM", "AutoModelForMaskedLM", "fill-mask"),
)
_BARE = HeadTask("", "AutoModel", "feature-extraction")


def task_of(model: nn.Module) -> HeadTask:
    """By the name of the model's class."""
    return next((task for task in _TASKS if type(model).__name__.endswith(task.ending)), _BARE)


def section_words(folder: Path, model: nn.Module, facts: CardFacts, picture: str) -> dict[str, Any]:
    """Name to value of everything in the template."""
    sizes, config = size_report(model), model.config.quantization_config
    scores = [(name, (facts.float_metrics or {}).get(name), value) for name, value in (facts.metrics or {}).items()]
    return {
        "warning": _WARNINGS[config.storage],
        "packed": config.storage == "packed",
        "snippet": _snippet(folder, task_of(model), facts.repo_id),
        "base_model": facts.base_model,
        "sizes": sizes,
        "float_bytes": sum(part.float_bytes for part in sizes.parts),
        "size_rows": _size_rows(sizes),
        "score_rows": scores,
        "compared": any(before is not None for _, before, _ in scores),
        "scored_on": " ".join(filter(None, (facts.dataset, facts.dataset_config, facts.dataset_split))) or "score",
        "picture": picture,
        "command": facts.command,
        "versions": words_of(config.origin, "versions"),
        "precisions": _precisions(model),
        "used_bits": f"{sizes.used_bits:.2f}",
        "megabytes": lambda count: f"{count / 1e6:.2f}",
        "number": lambda value: f"{value:.4f}",
    }


def _precisions(model: nn.Module) -> str:
    """The precisions that all nested codes serve, in words; empty where there are none."""
    served = [set(layer.nested) for layer in nested_matrices(model).values()]
    found = [str(bits) for bits in sorted(set.intersection(*served))] if served else []
    return " and ".join(filter(None, (", ".join(found[:-1]), *found[-1:])))


def words_of(content: Any, part: str | None = None) -> dict[str, str]:
    """What is text in a table that a config.json holds, or in one part of it: it may be anybody's."""
    table = content if isinstance(content, Mapping) else {}
    if part is not None:
        return words_of(table.get(part))
    return {str(name): value for name, value in table.items() if isinstance(value, str)}


def _size_rows(sizes: SizeReport) -> list[tuple[str, int, int]]:
    rows = [(place, [part for part in sizes.parts if part.place == place]) for place in _PLACES]
    return [
        (name, sum(part.float_bytes for part in parts), sum(part.packed_bytes for part in parts))
        for name, parts in [*rows, ("total", list(sizes.parts))]
    ]


def embedder_of(folder: Path) -> str | None:
    """The class of sentence-transformers that a folder is for; None where it is not one of theirs."""
    config = folder / "config_sentence_transformers.json"
    if not config.exists():
        return None
    kind = read_json(config, "save the embedder again").get("model_type")
    return kind if kind in _EMBEDDERS else _EMBEDDERS[0]


def _snippet(folder: Path, task: HeadTask, name: str) -> str:
    from transformers.pipelines import PIPELINE_REGISTRY  # which imports them all

    shown, embedder = json.dumps(name), embedder_of(folder)  # quotes and all
    if embedder is not None:
        loading = [f"from sentence_transformers import {embedder}", "", f"model = {embedder}({shown})"]
    elif (folder / "tokenizer_config.json").exists() and task.pipeline in PIPELINE_REGISTRY.get_supported_tasks():
        loading = ["from transformers import pipeline", "", f'pipe = pipeline("{task.pipeline}", {shown})']
    else:
        loading = [f"from transformers import {task.loader}", "", f"model = {task.loader}.from_pretrained({shown})"]
    return "\n".join(["import hf_mpq  # registers the quantization method; before loading", *loading])
