"""A run that several tests look at."""

import pytest

from tests.training.runs import quantized, sentences, trainer


@pytest.fixture(scope="session")
def searched(made_once):
    """The folder of a short search."""

    def make(folder):
        model = quantized("mpq", layers=2, budget="3bits", bits=(0, 2, 4, 8))
        run = trainer(model, folder, logging_steps=2, eval_dataset=sentences(24))
        run.train()
        run.save_packed(folder / "packed")

    return made_once("searched", make)
