"""What a model card says beyond what the model itself shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class CardFacts:
    """What a card says beyond what the model shows; None is not known, and a card that is there keeps its own.

    Attributes:
        repo_id: the name under which readers load it.
        base_model: Hub name of the float model.
        command: what made it.
        metrics: name to score of this model, such as `{"accuracy": 0.91}`.
        float_metrics: the float model's, for the difference.
        dataset, dataset_config, dataset_split: of the scores, as the Hub names them: `"nyu-mll/glue"`, `"sst2"`,
            `"validation"`.
        language, license: for the metadata.
        tags: added to those that are there.
    """

    repo_id: str | None = None
    base_model: str | None = None
    command: str | None = None
    metrics: Mapping[str, float] | None = None
    float_metrics: Mapping[str, float] | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_split: str | None = None
    language: str | list[str] | None = None
    license: str | None = None
    tags: list[str] | None = None

    def over(self, others: CardFacts) -> CardFacts:
        """These facts, and from `others` those that are not known here."""
        known = {name: value for name, value in self.to_dict().items() if value is not None}
        return replace(others, **known)

    def to_dict(self) -> dict[str, Any]:
        """Name to value of every field."""
        return {one.name: getattr(self, one.name) for one in fields(self)}
