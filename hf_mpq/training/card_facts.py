"""What a run can say for the model's card."""

from typing import Any

from datasets import Dataset

from .record import RunRecord

_SPEED = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
_FORMATS = ("csv", "json", "pandas", "parquet", "text", "arrow", "generator")


def last_scores(record: RunRecord) -> dict[str, float] | None:
    """The scores of the last finished stage under the names that `compute_metrics` gave them; None without any."""
    finished = list(record.content["finished"].values())
    named = {key.removeprefix("eval_"): value for key, value in (finished[-1] if finished else {}).items()
             if key.startswith("eval_")}  # fmt: skip
    return {name: float(value) for name, value in named.items() if name not in _SPEED} or None


def dataset_facts(rows: Any) -> dict[str, str]:
    """Name, config and split of a data set that came from the Hub; nothing about others."""
    if not isinstance(rows, Dataset) or rows.builder_name in (None, *_FORMATS):
        return {}
    found = {"dataset": rows.builder_name, "dataset_config": rows.config_name, "dataset_split": str(rows.split)}
    return {name: value for name, value in found.items() if value not in (None, "None", "default")}
