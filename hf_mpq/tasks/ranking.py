"""Passages ranked for queries, and a set of them that is made from SQuAD."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, Value
from transformers import EvalPrediction

from .metrics import RankingMetric
from .question_answering import SQUAD
from .sequence_classification import SequenceClassification
from .task import logits_of


@dataclass(frozen=True)
class Ranking(SequenceClassification):
    """Pairs of a query and a passage; the label is how relevant the passage is, 0 where it is not, in whole numbers
    where there are degrees.

    A model has one output for a pair. Rows of the same query, wherever they stand, are ranked by it; queries whose
    passages are all equally relevant do not count. `scores` are `"ndcg@10"` and `"mrr@10"`.
    """

    text_columns: tuple[str, ...] = ("query", "passage")
    label_column: str = "label"
    label_names: tuple[str, ...] = ()
    headline: str = "ndcg@10"
    regression: bool = True
    scores: tuple[str, ...] = ("ndcg@10", "mrr@10")

    def metric(self) -> RankingMetric:
        return RankingMetric(self.scores)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        raise ValueError("ranking needs to know the query of each row: use task.metric_function(examples, features)")

    def metric_function(self, examples: Dataset, features: Dataset) -> Callable[[EvalPrediction], Mapping[str, float]]:
        queries = examples[self.text_columns[0]][:]

        def compute(prediction: EvalPrediction) -> Mapping[str, float]:
            labels = np.asarray(prediction.label_ids, float).reshape(-1)
            references = [{"query": query, "relevance": label} for query, label in zip(queries, labels, strict=True)]
            return self.metric().compute(predictions=logits_of(prediction).reshape(-1), references=references)

        return compute


@dataclass(frozen=True)
class ParagraphRanking(Ranking):
    """Questions of SQuAD (Rajpurkar et al., 2016): which paragraph of the article is each about?

    The paragraph that a question was asked about is relevant, the next ones of the same article, up to `candidates - 1`
    of them, are not; where an article has fewer, there are fewer. The relevant one stands at a place that depends on
    the question's number only. Data are those of the task `"squad"`.
    """

    candidates: int = 10

    def load(self, data_dir: str | Path | None = None) -> DatasetDict:
        """See `Task.load`; the folder is ``data_dir/squad``."""
        return DatasetDict({name: self.made(split) for name, split in SQUAD.load(data_dir).items()})

    def made(self, squad: Dataset) -> Dataset:
        """Rows of the columns query, passage, label from rows of SQuAD with their titles."""
        columns = Features({"query": Value("string"), "passage": Value("string"), "label": Value("float32")})
        return Dataset.from_list(list(self._rows(squad)), features=columns)

    def _rows(self, squad: Dataset) -> Iterator[dict]:
        articles: dict[str, dict[str, int]] = {}
        titles, passages = squad["title"][:], squad["context"][:]
        for title, passage in zip(titles, passages):
            known = articles.setdefault(title, {})
            known.setdefault(passage, len(known))
        listed = {title: list(known) for title, known in articles.items()}
        for number, (title, passage, question) in enumerate(zip(titles, passages, squad["question"][:])):
            others, here = listed[title], articles[title][passage]
            count = min(self.candidates, len(others))
            first = here - number % count
            for place in range(first, first + count):
                other = others[place % len(others)]
                yield {"query": question, "passage": other, "label": float(other == passage)}


RANKING = Ranking(name="ranking")
SQUAD_RANKING = ParagraphRanking(name="squad-ranking")
