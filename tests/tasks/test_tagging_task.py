import numpy as np
import pytest
from datasets import ClassLabel, Dataset, List
from transformers import EvalPrediction

from hf_mpq.tasks import get_task, subset
from hf_mpq.tasks.token_classification import first_token_labels


@pytest.fixture
def task():
    return get_task("conll2003")


def one_hot(labels, names):
    """Logits (n, length, names) and padded labels (n, length) of a model that is always right."""
    length = max(map(len, labels)) + 2
    padded = np.array([[*row, *[-100] * (length - len(row))] for row in labels])
    return np.eye(names)[np.maximum(padded, 0)], padded


def test_a_word_is_labelled_on_its_first_token_only():
    assert first_token_labels([None, 0, 0, 1, 2, 2, None], [3, 0, 4]) == [-100, 3, -100, 0, 4, -100, -100]
    assert first_token_labels([None, None], []) == [-100, -100]


def test_alignment_round_trip(task, tokenizer):
    rows = {"tokens": [["Mr.", "Wolfeschlegelstein", "visited", "Oslo"], ["No"]], "ner_tags": [[0, 1, 0, 5], [0]]}
    prepared = task.prepare(Dataset.from_dict(rows), tokenizer, 64)
    for row, words, tags in zip(prepared, rows["tokens"], rows["ner_tags"]):
        assert [label for label in row["labels"] if label != -100] == tags
        assert len(row["labels"]) == len(row["input_ids"]) > len(words) + 2 - (len(words) == 1)
        first = [number for number, label in enumerate(row["labels"]) if label != -100]
        assert first[0] == 1 and tokenizer.decode(row["input_ids"][1:-1]).replace(" ", "") == "".join(words).lower()


def test_words_beyond_the_length_are_cut(task, tokenizer):
    rows = Dataset.from_dict({"tokens": [["a"] * 50], "ner_tags": [[0] * 50]})
    row = task.prepare(rows, tokenizer, 16)[0]
    assert len(row["labels"]) == len(row["input_ids"]) == 16 and row["labels"][-1] == -100


def test_scores_leave_out_ignored_tokens(task):
    logits, labels = one_hot([[-100, 1, 2, -100, 0], [-100, 5, -100]], len(task.label_names))
    logits[labels == -100] = np.eye(9)[3]
    assert task.compute_metrics(EvalPrediction(logits, labels)) == {"precision": 1, "recall": 1, "f1": 1, "accuracy": 1}
    logits[0, 2] = np.eye(9)[0]  # the person loses its second word
    scores = task.compute_metrics(EvalPrediction((logits,), labels))
    assert scores == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 0.75}


def test_local_data_are_read_and_score_full_marks(task, data_dir, tokenizer):
    data = task.load(data_dir)
    assert (len(data["train"]), len(data["validation"])) == (14041, 3250)
    assert data["train"].features["ner_tags"] == List(ClassLabel(names=list(task.label_names)))
    part = subset(data["validation"], 200, seed=0)
    prepared = task.prepare(part, tokenizer, 512)
    assert [[label for label in row if label != -100] for row in prepared["labels"]] == part["ner_tags"][:]
    assert task.compute_metrics(EvalPrediction(*one_hot(prepared["labels"], 9)))["f1"] == 1.0
