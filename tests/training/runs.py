"""Small runs over random sentences."""

from functools import cache
from typing import Any

import torch
from datasets import Dataset

import hf_mpq
from hf_mpq import MPQConfig, MPQTrainer, MPQTrainingArguments
from tests.tiny import VOCABULARY, tiny_model

PADDING = 1


@cache
def sentences(count: int = 96, head: str = "sequence") -> Dataset:
    """Random sentences of 5 to 11 tokens; the label says whether the second one is in the upper half."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(count):
        length = int(torch.randint(5, 12, (1,), generator=generator))
        tokens = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        upper = [int(token > VOCABULARY // 2) for token in tokens]
        rows.append(
            {
                "input_ids": tokens,
                "attention_mask": [1] * length,
                "idle": 0,
                "labels": {"sequence": upper[1], "token": upper, "masked": tokens}[head],
            }
        )
    return Dataset.from_list(rows)


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Padded batch."""
    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": PADDING, "attention_mask": 0, "labels": -100}

    def padded(name):
        values = [row[name] for row in rows]
        if isinstance(values[0], int):
            return torch.tensor(values)
        return torch.tensor([[*value, *[fill[name]] * (width - len(value))] for value in values])

    return {name: padded(name) for name in fill if name in rows[0]}


def quantized(method: str | None = "uniform", family: str = "bert", head: str = "sequence", layers: int = 1, **config):
    """A tiny model of one layer with open or fixed gates."""
    model = tiny_model(family, head, num_hidden_layers=layers)
    return hf_mpq.quantize(model, MPQConfig(method=method, **{"groups": 8, **config}))


def arguments(folder: Any, **changes) -> MPQTrainingArguments:
    """Twelve steps an epoch, two epochs, a checkpoint at the end of each stage, without noise on the screen."""
    return MPQTrainingArguments(
        str(folder),
        **{
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "report_to": "none",
            "use_cpu": True,
            "logging_steps": 5,
            "save_steps": 500,
            "learning_rate": 1e-3,
            "disable_tqdm": True,
            "save_total_limit": 2,
            "calibration_examples": 16,
            "selection_examples": 16,
            **changes,
        },
    )


def trainer(model, folder, **options) -> MPQTrainer:
    """Over the random sentences; `options` of the trainer and of its arguments alike."""
    names = ("teacher", "callbacks", "train_dataset", "data_collator", "eval_dataset")
    own = {name: options.pop(name) for name in names if name in options}
    own = {"train_dataset": sentences(), "data_collator": collate, **own}
    return MPQTrainer(model, arguments(folder, **options), **own)


def resumable(model, folder, **options) -> MPQTrainer:
    """The same with a checkpoint at every third step."""
    return trainer(model, folder, **{"save_steps": 3, **options})
