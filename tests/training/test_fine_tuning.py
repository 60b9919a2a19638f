"""Fine-tuning beside trainers with other arguments."""

import pytest
from accelerate import PartialState

from hf_mpq import MPQTrainer
from hf_mpq.training import fine_tune
from tests.tiny import tiny_model
from tests.training.runs import arguments, collate, quantized, sentences, trainer


def tune(folder, rows=None, **options):
    return fine_tune(
        tiny_model("bert"),
        sentences(16) if rows is None else rows,
        collate,
        folder / "float",
        num_train_epochs=1,
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )


@pytest.mark.parametrize("bf16", [True, False])
def test_arguments_made_before_keep_their_precision(bf16, tmp_path):
    args = arguments(tmp_path / "run", bf16=not bf16, num_train_epochs=1, save_strategy="no")
    tune(tmp_path, bf16=bf16)
    run = MPQTrainer(quantized(), args, train_dataset=sentences(16), data_collator=collate)
    assert run.accelerator.mixed_precision == ("no" if bf16 else "bf16")
    assert run.train().training_loss > 0


def test_a_trainer_made_before_goes_on_as_it_was(tmp_path):
    run = trainer(quantized(), tmp_path / "run", num_train_epochs=1, save_strategy="no", bf16=True)
    device = PartialState().device
    tune(tmp_path, bf16=False)
    with pytest.raises(ValueError, match="did not return a loss"):
        tune(tmp_path, sentences(16).remove_columns("labels"), bf16=False)
    assert run.accelerator.mixed_precision == "bf16" and PartialState().device == device
    assert run.train().training_loss > 0
