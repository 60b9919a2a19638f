"""Scoring a model without a Trainer gives what a Trainer gives."""

import pytest
from datasets import Dataset
from transformers import Trainer, TrainingArguments

import hf_mpq
from hf_mpq.tasks import evaluate_model, get_task
from tests.tiny import HEADS, tiny_config

HEAD_OF = {"sst2": "sequence", "stsb": "sequence", "conll2003": "token", "squad": "question"}


def examples_of(name: str, shared_data, count: int) -> Dataset:
    return get_task(name).load(shared_data)["validation"].select(range(count))


@pytest.mark.parametrize("name", HEAD_OF)
def test_same_metrics_as_a_trainer(name, shared_data, tokenizer, tmp_path):
    task, examples = get_task(name), examples_of(name, shared_data, 12)
    config = tiny_config(
        "bert",
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        num_labels=task.model_kwargs().get("num_labels", 2),
    )
    model = HEADS[HEAD_OF[name]].from_config(config)
    rows = task.prepare_evaluation(examples, tokenizer, 96)
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", per_device_eval_batch_size=5)
    trainer = Trainer(model, args, task.data_collator(tokenizer), compute_metrics=task.metric_function(examples, rows))
    expected = {key.removeprefix("eval_"): value for key, value in trainer.evaluate(rows).items()}
    found = evaluate_model(model, task, examples, tokenizer, max_length=96, batch_size=5)
    assert task.headline in found
    for key, value in found.items():
        assert value == pytest.approx(expected[key], abs=1e-4), key


def test_packed_models_are_scored(shared_data, tokenizer):
    config = tiny_config("bert", vocab_size=len(tokenizer), max_position_embeddings=128)
    model = hf_mpq.pack(hf_mpq.quantize(HEADS["sequence"].from_config(config), hf_mpq.MPQConfig(bits=4)))
    found = evaluate_model(model, get_task("sst2"), examples_of("sst2", shared_data, 9), tokenizer)
    assert 0 <= found["accuracy"] <= 1
