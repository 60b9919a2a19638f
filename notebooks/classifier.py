"""The fine-tuned classifier that the notebooks compress; yours takes its place.

It reads a docstring of Python's standard library and says to which chapter of the library reference it belongs: the
first two layers of MiniLM, fine-tuned for about a minute. It needs no file and no network, only the package with
MiniLM's weights.
"""

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import datasets
import torch
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_mpq.cli.commands.demo import minilm
from hf_mpq.tasks import Task, evaluate_model, get_task, subset
from hf_mpq.training import fine_tune

LAYERS, MAX_LENGTH = 2, 32

logging.set_verbosity_error()
logging.disable_progress_bar()
datasets.disable_progress_bars()


class Classifier(NamedTuple):
    """What the notebooks work with.

    Attributes:
        model: float, fine-tuned.
        tokenizer: its.
        task: labels and metrics.
        train, test: rows tokenized for the model, with labels.
        examples: the rows of `test` as they were: `text`, `label` and what they document.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    train: Dataset
    test: Dataset
    examples: Dataset

    def accuracy(self, model: PreTrainedModel) -> float:
        """Of a model, float or compressed, on the test rows, in percent."""
        return 100 * evaluate_model(model, self.task, self.examples, self.tokenizer, MAX_LENGTH)["accuracy"]


def load_classifier(folder: str = "classifier", rows: int = 4000, test_rows: int = 1281) -> Classifier:
    """The model in `folder`, fine-tuned on so many rows first if it is not there yet.

    Raises:
        UserError: MiniLM is not installed; it says how to install it.
    """
    task = get_task("docstrings")
    data, tokenizer = task.load(), AutoTokenizer.from_pretrained(minilm())
    train, examples = subset(data["train"], rows), subset(data["validation"], test_rows)
    prepared = task.prepare(train, tokenizer, MAX_LENGTH), task.prepare(examples, tokenizer, MAX_LENGTH)
    if not Path(folder, "config.json").is_file():
        _fine_tune(task, prepared[0], tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    model = task.auto_class.from_pretrained(folder).eval()
    return Classifier(model, tokenizer, task, *prepared, examples)


def _fine_tune(task: Task, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    torch.manual_seed(0)
    model = task.auto_class.from_pretrained(minilm(), num_hidden_layers=LAYERS, **task.model_kwargs())
    model.base_model.embeddings.requires_grad_(False)  # half as long, and as good with so few rows
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        return fine_tune(model, rows, task.data_collator(tokenizer), folder, num_train_epochs=2, learning_rate=6e-4,
                         seed=0, disable_tqdm=True, logging_strategy="no")
