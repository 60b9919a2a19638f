"""The upload of a run's packed model, and what the run can say for its card."""

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import CommitInfo, HfApi

from ...hub import push
from ...runs.record import RunRecord
from ..arguments import MPQTrainingArguments

_SPEED = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
_FORMATS = ("csv", "json", "pandas", "parquet", "text", "arrow", "generator")


def publish(
    folder: Path, args: MPQTrainingArguments, facts: Mapping[str, Any], options: Mapping[str, Any], blocking: bool
) -> CommitInfo | Future[CommitInfo]:
    """Upload a packed folder under the name that the arguments of the run give it, or that of its folder.

    Args:
        facts: for the card.
        options: of `push`; what is None there is taken from `args`.
        blocking: wait for the upload.
    """
    defaults = {"token": args.hub_token, "revision": args.hub_revision, "private": args.hub_private_repo}
    options = {**options, **{name: value for name, value in defaults.items() if options[name] is None}}
    name = args.hub_model_id or Path(args.output_dir).resolve().name
    facts = {key: value for key, value in facts.items() if key != "model_name"}  # Trainer's own callers give it
    if blocking:
        return push(folder, name, **options, **facts)
    return HfApi().run_as_future(push, folder, name, **options, **facts)


def run_facts(output_dir: str | Path, rows: Any) -> dict[str, Any]:
    """Scores of the last stage, and the data set `rows` that they are of."""
    return {**dataset_facts(rows), "metrics": last_scores(RunRecord(output_dir))}


def last_scores(record: RunRecord) -> dict[str, float] | None:
    """The scores of the last finished stage under the names that `compute_metrics` gave them; None without any."""
    finished = list(record.content["finished"].values())
    named = {
        key.removeprefix("eval_"): value
        for key, value in (finished[-1] if finished else {}).items()
        if key.startswith("eval_")
    }
    return {name: float(value) for name, value in named.items() if name not in _SPEED} or None


def dataset_facts(rows: Any) -> dict[str, str]:
    """Name, config and split of a data set that came from the Hub; nothing about others."""
    if not isinstance(rows, Dataset) or rows.builder_name in (None, *_FORMATS):
        return {}
    found = {"dataset": rows.builder_name, "dataset_config": rows.config_name, "dataset_split": str(rows.split)}
    return {name: value for name, value in found.items() if value not in (None, "None", "default")}
