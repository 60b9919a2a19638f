"""Models that their config reduced are taught by the whole one, and train as others do."""

import pytest
import torch
from transformers import TrainerCallback

from hf_mpq import MPQConfig, quantize
from hf_mpq.core import METHODS
from hf_mpq.plugin.reshape import whole_model
from tests.contracts.test_methods_train import CONFIGS, TRAINED, options_for
from tests.tiny import tiny_batch, tiny_model
from tests.training.runs import quantized, sentences, trainer

SHAPE = "layers:1,hidden:16,rows:24"
FEW = [name if name == "mpq" else pytest.param(name, marks=pytest.mark.full) for name in TRAINED]


class _Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


def run(model, folder, method, **more):
    stages = {
        stage.name: {
            "arguments": {**stage.arguments, "max_steps": 2},
            **({"strategy_options": options_for(stage.strategy)} if stage.strategy else {}),
        }
        for stage in METHODS[method].stages
    }
    return trainer(model, folder, stages=stages, train_dataset=sentences(32), selection_examples=0, **more)


SEARCH_ROWS = ("bigger-faster", "channel-expansion")
"""Methods that take the reduced student's rows for a start."""


@pytest.mark.parametrize("method", FEW)
def test_every_method_trains_a_shallower_student(method, tmp_path):
    model = quantized(method, layers=3, shape="layers:1,rows:24", **CONFIGS[method])
    one = run(model, tmp_path, method)
    one.train()
    one.save_packed(tmp_path / "packed")
    assert len(one.model.bert.encoder.layer) == 1
    assert one.model.config.num_hidden_layers == 1
    assert method in SEARCH_ROWS or one.model.config.intermediate_size == 24


def test_the_whole_model_teaches_and_a_resumed_run_is_the_same(tmp_path):
    def model():
        return quantized("uniform", layers=2, bits=4, shape=SHAPE)

    options = {"max_steps": 4, "save_steps": 2, "train_dataset": sentences(32)}
    taught = model()
    whole = trainer(taught, tmp_path / "whole", **options)
    assert whole._teacher is whole_model(taught) and len(whole._teacher.bert.encoder.layer) == 2
    whole.train()
    other = trainer(model(), tmp_path / "part", **options)
    with pytest.raises(KeyboardInterrupt):
        other.add_callback(_Stop)
        other.train()
    again = trainer(model(), tmp_path / "part", **options)
    again.train(resume_from_checkpoint=True)
    for one, two in zip(whole.model.parameters(), again.model.parameters()):
        assert torch.equal(one, two)


def test_without_the_whole_model_somebody_must_be_named(tmp_path):
    quantize(tiny_model("bert"), MPQConfig(bits=4, shape="layers:1")).save_pretrained(tmp_path / "saved")
    kind = type(tiny_model("bert"))
    options = {"max_steps": 1, "train_dataset": sentences(16)}
    with pytest.raises(ValueError, match="give teacher="):
        trainer(kind.from_pretrained(tmp_path / "saved"), tmp_path / "a", **options).train()
    trainer(kind.from_pretrained(tmp_path / "saved"), tmp_path / "b", teacher=tiny_model("bert"), **options).train()


@pytest.mark.parametrize("start", ["random", "pretrained"])
def test_stages_that_start_anew_are_reduced_too(start, tmp_path):
    tiny_model("bert").save_pretrained(tmp_path / "float")
    model = quantized("uniform", bits=4, shape=SHAPE)
    stage = METHODS["uniform"].stages[0].name
    options = {"stages": {stage: {"start": start}}, "pretrained": str(tmp_path / "float")}
    students = trainer(model, tmp_path / "run", max_steps=1, train_dataset=sentences(16), **options)
    students.train()
    assert students.model(**tiny_batch()).logits.isfinite().all()
    assert students.model.config.hidden_size == 16
