"""Rankings: metrics, rows made from SQuAD, and `verify`."""

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import ndcg_score
from transformers import EvalPrediction

from hf_mpq.tasks import ParagraphRanking, get_task
from hf_mpq.tasks.metrics import RankingMetric, ndcg, reciprocal_rank


def test_ndcg_is_that_of_sklearn():
    random = np.random.default_rng(0)
    for size in (2, 5, 10, 30):
        scores, relevance = random.normal(size=size), random.integers(0, 2, size)
        relevance[0] = 1
        assert ndcg(scores, relevance) == pytest.approx(ndcg_score([relevance], [scores], k=10))
    assert ndcg(np.array([3.0, 2.0, 1.0]), np.array([0, 2, 1])) == pytest.approx(
        (3 / np.log2(3) + 1 / 2) / (3 + 1 / np.log2(3))
    )


def test_ndcg_of_large_degrees():
    """Whose gains no float can hold."""
    scores = np.array([3.0, 2.0, 1.0])
    assert ndcg(scores, np.array([5000, 1, 0])) == 1.0
    assert ndcg(scores, np.array([1, 0, 5000])) == pytest.approx(1 / 2)


def test_reciprocal_ranks():
    assert reciprocal_rank(np.array([0.1, 0.9, 0.5]), np.array([0, 0, 1])) == 0.5
    assert reciprocal_rank(np.arange(12.0), np.array([1] + [0] * 11)) == 0.0
    assert reciprocal_rank(np.zeros(4), np.array([1, 0, 0, 0])) == 0.25, "who says nothing ranks nothing"


def test_rows_of_a_query_are_ranked_together_wherever_they_stand():
    rows = [("a", 0.9, 0), ("b", 0.9, 1), ("a", 0.1, 1), ("b", 0.1, 0), ("c", 0.5, 1), ("d", 0.3, 0), ("d", 0.7, 0)]
    references = [{"query": query, "relevance": label} for query, _, label in rows]
    found = RankingMetric(("mrr@10",)).compute(predictions=[score for _, score, _ in rows], references=references)
    assert found == {"mrr@10": 0.75}, "c and d have nothing to rank"
    with pytest.raises(ValueError, match="among"):
        RankingMetric(("map",))


def squad() -> Dataset:
    asked = [("Rome", f"rome {n % 4}", f"q{n}") for n in range(6)] + [("Oslo", "oslo", "q6")]
    return Dataset.from_dict(dict(zip(("title", "context", "question"), map(list, zip(*asked)))))


def test_a_ranking_is_made_from_squad():
    made = ParagraphRanking(name="x", candidates=3).made(squad())
    by_query = {query: [row for row in made if row["query"] == query] for query in made.unique("query")}
    for number in range(6):
        rows = by_query[f"q{number}"]
        assert len(rows) == len({row["passage"] for row in rows}) == 3
        assert [row["passage"] for row in rows if row["label"] == 1] == [f"rome {number % 4}"]
    places = {[row["label"] for row in by_query[f"q{number}"]].index(1.0) for number in range(6)}
    assert places == {0, 1, 2} and len(by_query["q6"]) == 1


def test_the_headline_comes_from_the_queries(tokenizer):
    task = get_task("ranking")
    examples = Dataset.from_dict({"query": ["a", "a", "b"], "passage": ["x", "y", "z"], "label": [0.0, 1.0, 1.0]})
    features = task.prepare_evaluation(examples, tokenizer, 16)
    labels = np.array(features["labels"][:])
    score = task.metric_function(examples, features)
    assert score(EvalPrediction(np.array([[0.2], [0.9], [0.1]]), labels)) == {"ndcg@10": 1.0, "mrr@10": 1.0}
    assert score(EvalPrediction(np.array([[0.9], [0.2], [0.1]]), labels))["mrr@10"] == 0.5
    with pytest.raises(ValueError, match="metric_function"):
        task.compute_metrics(EvalPrediction(np.zeros((3, 1)), labels))


def test_real_questions(shared_data):
    made = get_task("squad-ranking").made(get_task("squad").load(shared_data)["validation"].select(range(300)))
    assert sum(made["label"][:]) >= 295 and len(made) > 2000  # some questions are asked twice
