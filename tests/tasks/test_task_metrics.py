import string

import evaluate
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from transformers import EvalPrediction

from hf_mpq.tasks import get_task, metrics
from hf_mpq.tasks.metrics import SequenceMetric, SQuADMetric, TaggingMetric

RANDOM = np.random.default_rng(0)
PAIRS = {
    "random binary": (RANDOM.integers(0, 2, 200), RANDOM.integers(0, 2, 200)),
    "random of five": (RANDOM.integers(0, 5, 200), RANDOM.integers(0, 5, 200)),
    "perfect": (np.array([0, 1, 2, 1]), np.array([0, 1, 2, 1])),
    "all wrong": (np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0])),
    "constant predictions": (np.ones(50, int), RANDOM.integers(0, 2, 50)),
    "constant references": (RANDOM.integers(0, 2, 50), np.zeros(50, int)),
    "both constant and equal": (np.ones(5, int), np.ones(5, int)),
    "no positive anywhere": (np.zeros(5, int), np.zeros(5, int)),
    "a class never predicted": (np.array([0, 1, 0, 1, 0]), np.array([0, 1, 2, 2, 2])),
    "one row": (np.array([1]), np.array([0])),
}


@pytest.fixture
def random():
    return np.random.default_rng(1)


@pytest.mark.parametrize("name", PAIRS)
def test_class_scores_are_those_of_scikit_learn(name):
    predictions, references = PAIRS[name]
    binary = (references == 1).astype(int), (predictions == 1).astype(int)
    expected = {
        metrics.accuracy: sklearn.metrics.accuracy_score(references, predictions),
        metrics.binary_f1: sklearn.metrics.f1_score(*binary, zero_division=0),
        metrics.macro_f1: sklearn.metrics.f1_score(references, predictions, average="macro", zero_division=0),
        metrics.matthews_correlation: sklearn.metrics.matthews_corrcoef(references, predictions),
    }
    for function, value in expected.items():
        assert function(predictions, references) == pytest.approx(value, abs=1e-12), function.__name__


SETS = {
    "random": RANDOM.integers(0, 2, (2, 60, 5)),
    "none holds": np.zeros((2, 4, 3), int),
    "one never": RANDOM.integers(0, 2, (2, 40, 4)) * np.array([1, 1, 0, 1]),
}


@pytest.mark.parametrize("name", SETS)
def test_scores_of_label_sets_are_those_of_scikit_learn(name):
    predictions, references = SETS[name]
    held = (predictions | references).any(0)
    expected = {
        "micro_f1": sklearn.metrics.f1_score(references, predictions, average="micro", zero_division=0),
        "macro_f1": sklearn.metrics.f1_score(
            references[:, held], predictions[:, held], average="macro", zero_division=0
        )
        if held.any()
        else 0.0,
        "subset_accuracy": sklearn.metrics.accuracy_score(references, predictions),
    }
    metric = metrics.LabelSetMetric(list(expected))
    assert metric.compute(predictions=predictions, references=references) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="must be among"):
        metrics.LabelSetMetric(["accuracy"])


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_correlations_are_those_of_scipy(ties, random):
    predictions, references = random.normal(size=(2, 300))
    references = references + predictions
    if ties:
        predictions, references = predictions.round(), references.round()
    assert metrics.pearson(predictions, references) == pytest.approx(scipy.stats.pearsonr(predictions, references)[0])
    assert metrics.spearman(predictions, references) == pytest.approx(scipy.stats.spearmanr(predictions, references)[0])


@pytest.mark.parametrize("function", [metrics.pearson, metrics.spearman])
def test_correlations_of_a_constant_are_zero(function):
    assert function(np.full(7, 0.1), np.arange(7.0)) == function(np.arange(7.0), np.full(7, 0.1)) == 0.0
    assert function(np.arange(7.0), np.arange(7.0)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, sat!", "cat sat"),
        ("a an the", ""),
        ("Theory of Anarchy", "theory of anarchy"),
        ("U.S.", "us"),
        ("$5.0 million\n", "50 million"),
        ("an-other", "another"),
        ("the-end", "theend"),
        (string.punctuation, ""),
        ("“quoted”", "“quoted”"),
    ],
)
def test_answers_are_normalized_as_officially(text, expected):
    assert metrics.normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("the Denver Broncos", ["Denver Broncos"], 100.0, 100.0),
        ("Broncos", ["Denver Broncos", "The Broncos!"], 100.0, 100.0),
        ("Denver", ["Denver Broncos"], 0.0, 200 / 3),
        ("Broncos Broncos", ["Denver Broncos"], 0.0, 50.0),
        ("Carolina", ["Denver Broncos"], 0.0, 0.0),
        ("", ["Denver Broncos"], 0.0, 0.0),
        ("the", ["a"], 100.0, 0.0),
        ("in 1990", ["1990", "in the year 1990"], 0.0, 80.0),
    ],
)
def test_squad_scores_of_hand_written_cases(prediction, answers, exact, f1):
    scores = metrics.squad_scores({"q": prediction}, {"q": answers})
    assert scores == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_a_question_without_prediction_counts_zero():
    assert metrics.squad_scores({"a": "x"}, {"a": ["x"], "b": ["y"]}) == {"exact_match": 50.0, "f1": 50.0}
    with pytest.raises(ValueError, match="an answer to each"):
        metrics.squad_scores({"a": "x"}, {"a": []})


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", set()),
        ("B-A I-A O", {("A", 0, 2)}),
        ("B-A B-A", {("A", 0, 1), ("A", 1, 2)}),
        ("I-A I-A", {("A", 0, 2)}),
        ("O I-A I-B", {("A", 1, 2), ("B", 2, 3)}),
        ("B-A I-B I-B", {("A", 0, 1), ("B", 1, 3)}),
        ("B-A O I-A", {("A", 0, 1), ("A", 2, 3)}),
        ("", set()),
    ],
)
def test_chunks_of_hand_written_cases(tags, expected):
    assert metrics.chunks(tags.split()) == expected


def conlleval(predictions, references):
    """The counts of the Perl script conlleval, translated line by line: correct, found, actual chunks."""

    def ends(before, tag, other_type):
        return (before, tag) in {("B", "B"), ("B", "O"), ("I", "B"), ("I", "O")} or (before != "O" and other_type)

    def starts(before, tag, other_type):
        return (before, tag) in {("B", "B"), ("I", "B"), ("O", "B"), ("O", "I")} or (tag != "O" and other_type)

    correct = found = actual = 0
    for prediction, reference in zip(predictions, references):
        matching, last, last_type, guess, guess_type = False, "O", "", "O", ""
        for ours, theirs in zip([*prediction, "O"], [*reference, "O"]):
            guessed, _, guessed_type = ours.partition("-")
            gold, _, gold_type = theirs.partition("-")
            gold_turn, guess_turn = (last, gold, last_type != gold_type), (guess, guessed, guess_type != guessed_type)
            end_gold, end_guess = ends(*gold_turn), ends(*guess_turn)
            if matching and end_gold and end_guess and last_type == guess_type:
                matching, correct = False, correct + 1
            elif matching and (end_gold != end_guess or gold_type != guessed_type):
                matching = False
            start_gold, start_guess = starts(*gold_turn), starts(*guess_turn)
            matching = matching or (start_gold and start_guess and gold_type == guessed_type)
            found, actual = found + start_guess, actual + start_gold
            last, last_type, guess, guess_type = gold, gold_type, guessed, guessed_type
    return correct, found, actual


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5, 1.0])
def test_chunk_scores_are_those_of_conlleval(noise, random):
    names = np.array(["O", "B-X", "I-X", "B-Y", "I-Y"])
    references = [random.choice(names, random.integers(1, 12)) for _ in range(200)]
    predictions = [np.where(random.random(len(row)) < noise, random.choice(names, len(row)), row) for row in references]
    correct, found, actual = conlleval(predictions, references)
    scores = metrics.chunk_scores([row.tolist() for row in predictions], [row.tolist() for row in references])
    assert scores["precision"] == pytest.approx(correct / found)
    assert scores["recall"] == pytest.approx(correct / actual)
    assert scores["f1"] == pytest.approx(2 * correct / (found + actual))


def test_no_chunk_at_all_scores_zero():
    scores = metrics.chunk_scores([["O", "O"]], [["O", "O"]])
    assert scores == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "accuracy": 1.0}
    with pytest.raises(ValueError):
        metrics.chunk_scores([["O"]], [["O", "O"]])


def test_the_metric_classes_need_no_network(no_network, monkeypatch):
    for switch in (
        "huggingface_hub.constants.HF_HUB_OFFLINE",
        "evaluate.config.HF_EVALUATE_OFFLINE",
        "datasets.config.HF_HUB_OFFLINE",
    ):
        monkeypatch.setattr(switch, True)
    classes = SequenceMetric(("f1", "accuracy")).compute(predictions=[1, 0, 1], references=[1, 1, 1])
    assert classes == {"f1": pytest.approx(0.8), "accuracy": pytest.approx(2 / 3)}
    values = SequenceMetric(("pearson", "spearmanr")).compute(predictions=[0.5, 1.5, 2.5], references=[0.0, 1.0, 4.0])
    assert values == {"pearson": pytest.approx(0.9608, abs=1e-4), "spearmanr": pytest.approx(1.0)}
    answers = {"text": ["Rome", "rome"], "answer_start": [0, 9]}
    squad = SQuADMetric().compute(
        predictions=[{"id": "q", "prediction_text": "the Rome"}], references=[{"id": "q", "answers": answers}]
    )
    assert squad == {"exact_match": 100.0, "f1": 100.0}
    assert TaggingMetric().compute(predictions=[["B-A", "O"]], references=[["B-A", "I-A"]])["f1"] == 0.0


def test_the_metric_classes_are_metrics_of_evaluate():
    metric = SequenceMetric(("accuracy",))
    metric.add_batch(predictions=[1, 0], references=[1, 1])
    metric.add(prediction=1, reference=1)
    assert metric.compute() == {"accuracy": pytest.approx(2 / 3)}
    both = evaluate.combine([SequenceMetric(("accuracy",)), SequenceMetric(("f1",))])
    assert both.compute(predictions=[1, 0], references=[1, 1]) == {"accuracy": 0.5, "f1": pytest.approx(2 / 3)}


@pytest.mark.parametrize("scores", [("bleu",), ("accuracy", "pearson")])
def test_unknown_or_mixed_scores_are_refused(scores):
    with pytest.raises(ValueError, match="Scores must be among"):
        SequenceMetric(scores)


@pytest.mark.parametrize(
    ("task", "headline"),
    [("cola", "matthews_correlation"), ("sst2", "accuracy"), ("mrpc", "f1"), ("qqp", "f1"), ("docstrings", "accuracy")],
)
def test_a_task_scores_the_largest_logit(task, headline, random):
    logits = random.normal(size=(40, 2))
    labels = (logits[:, 1] > logits[:, 0]).astype(int)
    for predictions in (logits, (logits, "hidden states")):
        scores = get_task(task).compute_metrics(EvalPrediction(predictions, labels))
        assert next(iter(scores)) == headline and scores[headline] == 1.0


def test_regression_scores_the_value(random):
    values = random.normal(size=(40, 1)).astype(np.float32)
    scores = get_task("stsb").compute_metrics(EvalPrediction(values, 2 * values[:, 0] + 1))
    assert scores == {"spearmanr": pytest.approx(1.0), "pearson": pytest.approx(1.0)}
