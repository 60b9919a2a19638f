"""The metadata of a model card, which the Hub reads."""

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from torch import nn

from ..plugin.origin import hub_name
from .card_memory import Memory
from .card_widget import is_ours, widget
from .card_words import embedder_of, task_of
from .facts import CardFacts

TAGS = ("hf-mpq", "quantized", "mixed-precision")
UNKNOWN = "unknown"
_HUB_METRICS = {"matthews": "matthews_correlation", "spearman": "spearmanr", "pearson": "pearsonr"}


_EMBEDDER_TASKS = {"CrossEncoder": "text-ranking"}


def fill_metadata(data: ModelCardData, model: nn.Module, facts: CardFacts, before: Memory, folder: Path) -> None:
    """Set what we know; what is there and does not contradict it stays.

    Args:
        folder: of the model.
        before: what the card said so far; scores in it that hold no longer are taken out.
    """
    embedder = embedder_of(folder)
    data.library_name = data.library_name or ("transformers" if embedder is None else "sentence-transformers")
    task = task_of(model).pipeline if embedder is None else _EMBEDDER_TASKS.get(embedder, "sentence-similarity")
    data.pipeline_tag = data.pipeline_tag or task
    data.license, data.language = facts.license or data.license, facts.language or data.language
    data.tags = list(dict.fromkeys([*(data.tags or ()), *(facts.tags or ()), *TAGS]))
    if is_ours(data.get("widget")):
        data.widget = widget(model, folder, data.pipeline_tag) if _is_english(data.language) else None
    data.base_model = _base_models(facts.base_model or data.base_model)
    if data.base_model:
        data.base_model_relation = "quantized"
    others = [one for one in data.eval_results or () if (one.metric_name, one.metric_value) not in before.stale.items()]
    results = [*_results(data.pipeline_tag, facts), *others]
    data.model_name = data.model_name or facts.repo_id.split("/")[-1] if results else None
    data.eval_results = _once(results) or None


def _is_english(language: str | list[str] | None) -> bool:
    """Whether an English example says something; so it may, where nobody says what language a model is for."""
    return language is None or "en" in ([language] if isinstance(language, str) else language)


def _base_models(names: str | list[str] | None) -> str | list[str] | None:
    """The names that can be on the Hub: a folder of somebody's machine is no base model."""
    if isinstance(names, list):
        return [name for name in names if hub_name(name)] or None
    return hub_name(names)


def _results(task: str, facts: CardFacts) -> Iterator[EvalResult]:
    for name, value in (facts.metrics or {}).items():
        if name != "loss":
            yield EvalResult(
                task_type=task,
                dataset_type=facts.dataset or UNKNOWN,
                dataset_name=facts.dataset or UNKNOWN,
                dataset_config=facts.dataset_config,
                dataset_split=facts.dataset_split,
                metric_type=_HUB_METRICS.get(name, name),
                metric_name=name,
                metric_value=value,
            )


def _once(results: list[EvalResult]) -> list[EvalResult]:
    """Without older scores of the same thing."""
    kept = {}
    for one in results:
        kept.setdefault((one.unique_identifier, one.metric_type), one)
    return list(kept.values())
