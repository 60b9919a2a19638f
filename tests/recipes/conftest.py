"""What tests of the recipes share: their folder can be imported from, and small data and models for every task."""

import sys

import pytest
from datasets import Dataset

from hf_mpq.tasks import TASKS
from tests.recipes import BENCHMARKS, RECIPES
from tests.tiny import tiny_model

ROWS = 40
WORDS = (
    "the",
    "model",
    "returns",
    "a",
    "list",
    "of",
    "names",
    "when",
    "every",
    "value",
    "is",
    "known",
    "and",
    "raises",
    "an",
    "error",
    "otherwise",
)


@pytest.fixture(scope="session", autouse=True)
def importable():
    """The folders of recipes and benchmarks, as when a script in them is run."""
    folders = [str(RECIPES), str(BENCHMARKS)]
    sys.path[:0] = folders
    yield
    for folder in folders:
        sys.path.remove(folder)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A few rows for each task, in its columns."""
    folder = tmp_path_factory.mktemp("data")
    sentence = lambda k: " ".join(WORDS[(k * j) % len(WORDS)] for j in range(1, 9))  # noqa: E731
    for task in TASKS.values():
        if task.hub is None:
            continue
        rows = [_row(task, k, sentence) for k in range(ROWS)]
        for split in ("train", task.validation_split):
            (folder / task.name).mkdir(exist_ok=True)
            Dataset.from_list(rows).to_json(folder / task.name / f"{split}.jsonl")
    return folder


def _row(task, k, sentence):
    if task.kind == "question-answering":
        context, answer = sentence(k), sentence(k).split()[2]
        return {
            "id": str(k),
            "question": sentence(k + 1),
            "context": context,
            "answers": {"text": [answer], "answer_start": [context.index(answer)]},
        }
    if task.kind == "token-classification":
        tokens = sentence(k).split()
        return {task.text_columns[0]: tokens, task.label_column: [(k + j) % 3 for j in range(len(tokens))]}
    texts = {column: sentence(k + place) for place, column in enumerate(task.text_columns)}
    return {**texts, task.label_column: k / 8 if task.regression else k % len(task.label_names)}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tokenizer):
    """A tiny float model of each kind with its tokenizer."""
    made = {}

    def get(task):
        if task.name not in made:
            head = {
                "SequenceClassification": "sequence",
                "QuestionAnswering": "question",
                "TokenClassification": "token",
            }[type(task).__name__]
            model = tiny_model(
                "bert",
                head,
                vocab_size=len(tokenizer),
                max_position_embeddings=64,
                pad_token_id=0,
                **({} if head == "question" else task.model_kwargs()),
            )
            made[task.name] = tmp_path_factory.mktemp(task.name)
            model.save_pretrained(made[task.name])
            tokenizer.save_pretrained(made[task.name])
        return made[task.name]

    return get
