from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset
from transformers import EvalPrediction

from hf_mpq.tasks import get_task, postprocess, subset
from hf_mpq.tasks.question_answering import QuestionAnswering

WORDS = [f"{letter}{digit}" for letter in "abcdefghij" for digit in range(10)]
CONTEXT = " ".join(WORDS)


def example(answer="f5 f6", context=CONTEXT, question=" Which words?"):
    return Dataset.from_dict(
        {
            "id": ["one"],
            "context": [context],
            "question": [question],
            "answers": [{"text": [answer], "answer_start": [context.index(answer)]}],
        }
    )


def gold_logits(features):
    """Logits that are one at the gold positions of the windows that hold the answer, with a low peak in the others."""
    starts, ends = np.array(features["start_positions"][:]), np.array(features["end_positions"][:])
    length = max(len(ids) for ids in features["input_ids"])
    heights = np.where(ends > 0, 10.0, 1.0)[:, None]
    return tuple(heights * (np.arange(length) == positions[:, None]) for positions in (starts, ends))


@pytest.fixture
def task():
    return get_task("squad")


def test_windows_cover_the_context_and_overlap_by_the_stride(task, tokenizer):
    features = task.prepare_evaluation(example(), tokenizer, 60)
    spans = [[tuple(offset) for offset in row if offset[0] >= 0] for row in features["offset_mapping"]]
    assert len(spans) > 2 and max(len(ids) for ids in features["input_ids"]) == 60
    assert spans[0][0][0] == 0 and spans[-1][-1][1] == len(CONTEXT)
    for before, after in pairwise(spans):
        assert before[-20:] == after[:20] and before[-21] not in after


@pytest.mark.parametrize("answer", ["a0", "f5 f6", "j9", "e1 e2 e3 e4"])
def test_positions_decode_to_the_answer_in_the_windows_that_hold_it(answer, task, tokenizer):
    features = task.prepare(example(answer), tokenizer, 60)
    assert set(features.column_names) == {*tokenizer.model_input_names, "start_positions", "end_positions"}
    holding = [row for row in features if row["end_positions"]]
    assert holding and len(holding) < len(features)
    for row in holding:
        ids = row["input_ids"][row["start_positions"] : row["end_positions"] + 1]
        assert tokenizer.decode(ids).replace(" ", "") == answer.replace(" ", "")


def test_a_whole_context_is_one_window(task, tokenizer):
    assert len(task.prepare(example("a b", "x a b y"), tokenizer, 60)) == 1


def test_a_question_without_room_for_context_is_refused(task, tokenizer):
    with pytest.raises(ValueError, match="leaves no room in max_length=32"):
        task.prepare(example(question="why " * 40), tokenizer, 32)


@pytest.mark.parametrize("max_length", [60, 384])
def test_gold_logits_give_the_answer_back(max_length, task, tokenizer):
    examples = example()
    features = task.prepare_evaluation(examples, tokenizer, max_length)
    best = postprocess(examples, features, *gold_logits(features))["one"][0]
    assert (best.text, CONTEXT[best.start : best.end], best.score) == ("f5 f6", "f5 f6", 20.0)


def test_impossible_spans_are_never_chosen(task, tokenizer):
    examples = example()
    features = task.prepare_evaluation(examples, tokenizer, 60)
    random = np.random.default_rng(0)
    start, end = random.normal(size=(2, len(features), 64))
    for window, offsets in enumerate(features["offset_mapping"]):
        outside = [token for token in range(64) if token >= len(offsets) or offsets[token][0] < 0]
        start[window, outside] = end[window, outside] = 100.0  # the question, special tokens and padding
    start[:, -10:] = end[:, :10] = 50.0  # ends before starts
    answers = postprocess(examples, features, start, end, n_best=50, max_answer_length=6)["one"]
    assert 1 < len(answers) <= 50
    for answer in answers:
        assert answer.text and answer.text == CONTEXT[answer.start : answer.end]
        assert len(tokenizer(answer.text, add_special_tokens=False)["input_ids"]) <= 6


def test_the_n_best_are_distinct_ordered_and_normalized(task, tokenizer):
    examples = example()
    features = task.prepare_evaluation(examples, tokenizer, 60)
    start, end = np.random.default_rng(1).normal(size=(2, len(features), 60))
    answers = postprocess(examples, features, start, end, n_best=7)["one"]
    scores = [answer.score for answer in answers]
    assert len(answers) == len({(answer.start, answer.end) for answer in answers}) == 7
    assert scores == sorted(scores, reverse=True)
    assert sum(answer.probability for answer in answers) == pytest.approx(1.0)
    assert answers[0].probability == max(answer.probability for answer in answers)


def test_the_best_span_is_that_of_an_exhaustive_search(task, tokenizer):
    examples = example()
    features = task.prepare_evaluation(examples, tokenizer, 60)
    start, end = np.random.default_rng(2).normal(size=(2, len(features), 60))
    possible = [
        start[window, first] + end[window, last]
        for window, offsets in enumerate(features["offset_mapping"])
        for first in range(len(offsets))
        for last in range(first, min(first + 30, len(offsets)))
        if offsets[first][0] >= 0 and offsets[last][0] >= 0
    ]
    best = postprocess(examples, features, start, end, n_best=60)["one"][0]
    assert best.score == pytest.approx(max(possible))


def test_no_possible_span_is_no_answer_and_scores_zero(task, tokenizer):
    examples = example()
    features = task.prepare_evaluation(examples, tokenizer, 384)
    answers = postprocess(examples, features, *np.zeros((2, 1, 384)), max_answer_length=0)
    assert answers == {"one": []} and task.score(examples, answers) == {"exact_match": 0.0, "f1": 0.0}


def test_logits_of_another_length_are_refused(task, tokenizer):
    examples = example()
    features = task.prepare_evaluation(examples, tokenizer, 60)
    with pytest.raises(ValueError, match="windows, but 1 start"):
        postprocess(examples, features, *np.zeros((2, 1, 60)))


def test_the_metric_needs_the_texts(task):
    with pytest.raises(TypeError, match="metric_function"):
        task.compute_metrics(EvalPrediction((np.zeros((1, 2)), np.zeros((1, 2))), None))


@pytest.mark.parametrize(("split", "max_length"), [("validation", 384), ("validation", 160), ("train", 384)])
def test_gold_logits_score_full_marks_on_real_questions(split, max_length, data_dir, tokenizer):
    task = QuestionAnswering(**{**vars(get_task("squad")), "stride": 64})
    examples = subset(task.load(data_dir)[split], 300, seed=0)
    features = task.prepare_evaluation(examples, tokenizer, max_length)
    answers = postprocess(examples, features, *gold_logits(features), max_answer_length=max_length)
    scores = task.score(examples, answers)
    assert scores["exact_match"] >= 99.0 and scores["f1"] >= 99.0
