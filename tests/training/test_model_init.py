"""`model_init`: every run starts from a fresh model, and `hyperparameter_search` of transformers works."""

from importlib.util import find_spec

import pytest
import torch

from hf_mpq import MPQTrainer
from tests.tiny import tiny_model
from tests.training.runs import arguments, collate, quantized, sentences, trainer

SHORT = {"max_steps": 2, "selection_examples": 8}


def made(folder, model_init, **options):
    given = {"train_dataset": sentences(16), "eval_dataset": sentences(8), "data_collator": collate}
    return MPQTrainer(args=arguments(folder, **SHORT, **options), model_init=model_init, **given)


def weights(one):
    return {name: value.clone() for name, value in one.model.state_dict().items()}


def test_a_run_is_that_of_a_given_model_and_the_next_one_starts_afresh(tmp_path):
    given = trainer(quantized(), tmp_path / "given", train_dataset=sentences(16), **SHORT)
    given.train()
    several = made(tmp_path / "made", lambda: quantized())
    several.train()
    assert all(torch.equal(value, weights(several)[name]) for name, value in weights(given).items())
    several.args.output_dir = str(tmp_path / "again")
    several.train()
    assert all(torch.equal(value, weights(several)[name]) for name, value in weights(given).items())
    several.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    "model_init, words",
    [(lambda: tiny_model("bert"), "not quantized"), (None, "not quantized")],
)
def test_what_cannot_be_trained_is_refused(model_init, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        made(tmp_path, model_init)


@pytest.mark.skipif(find_spec("optuna") is None, reason="pip install 'hf_mpq[sweep]'")
def test_hyperparameter_search(tmp_path):
    import optuna

    seen = []

    def model_init(trial):
        bits = 4 if trial is None else trial.suggest_categorical("bits", [2, 4])
        seen.append(bits)
        return quantized(bits=bits)

    def objective(metrics):
        assert tuned.model.config.quantization_config.bits == seen[-1], "the trial's own model is evaluated"
        return metrics["eval_loss"]

    tuned = made(tmp_path, model_init)
    best = tuned.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3)},
        backend="optuna",
        n_trials=3,
        direction="minimize",
        compute_objective=objective,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    assert best.hyperparameters.keys() == {"bits", "learning_rate"} and best.objective > 0 and len(seen) == 4
    assert all((tmp_path / f"run-{number}" / "stages.json").exists() for number in range(3))
    assert tuned.args.output_dir == str(tmp_path) and not (tmp_path / "stages.json").exists()
