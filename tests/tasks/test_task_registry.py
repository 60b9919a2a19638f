import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, Trainer, TrainingArguments

from hf_mpq.tasks import TASKS, get_task, subset

KINDS = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "token-classification": "AutoModelForTokenClassification",
}


def tiny_model(task, tokenizer):
    config = AutoConfig.for_model(
        "bert",
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        **task.model_kwargs(),
    )
    torch.manual_seed(0)
    return task.auto_class.from_config(config)


def rows(task):
    """Four rows in the columns of the task."""
    if task.kind == "question-answering":
        return {
            "id": list("abcd"),
            "context": ["Rome is old. Oslo is cold."] * 4,
            "question": ["What is cold?"] * 4,
            "answers": [{"text": ["Oslo"], "answer_start": [13]}] * 4,
        }
    if task.kind == "token-classification":
        return {"tokens": [["Ann", "saw", "Oslo"]] * 4, "ner_tags": [[1, 0, 5]] * 4}
    texts = {column: ["a text", "the other text", "one", "two words"] for column in task.text_columns}
    return {**texts, "label": [0.5, 1.0, 3.0, 2.0] if task.regression else [0, 1, 0, 1]}


def test_the_registry_knows_glue_squad_conll_rankings_and_docstrings():
    assert set(TASKS) == {
        "cola",
        "sst2",
        "mrpc",
        "stsb",
        "qqp",
        "mnli",
        "qnli",
        "rte",
        "wnli",
        "squad",
        "conll2003",
        "docstrings",
        "ranking",
        "squad-ranking",
    }
    assert all(name == task.name for name, task in TASKS.items())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"task 'sst-2'; did you mean 'sst2'\? the known ones are: cola, .*wnli"):
        get_task("sst-2")


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_frozen_and_names_its_class_and_labels(name):
    task = get_task(name)
    with pytest.raises(AttributeError):
        task.name = "other"
    assert task.auto_class.__name__ == KINDS[task.kind]
    assert task.model_kwargs().get("num_labels", 2) == (1 if task.regression else len(task.label_names) or 2)


@pytest.mark.parametrize("name", TASKS)
def test_a_trainer_trains_and_reports_the_headline(name, tokenizer, tmp_path):
    task, examples = get_task(name), Dataset.from_dict(rows(get_task(name)))
    evaluation = task.prepare_evaluation(examples, tokenizer, 48)
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=1,
        per_device_eval_batch_size=3,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(
        tiny_model(task, tokenizer),
        arguments,
        data_collator=task.data_collator(tokenizer),
        train_dataset=task.prepare(examples, tokenizer, 48),
        eval_dataset=evaluation,
        compute_metrics=task.metric_function(examples, evaluation),
    )
    assert np.isfinite(trainer.train().training_loss)
    assert np.isfinite(trainer.evaluate()[f"eval_{task.headline}"])


def test_a_model_learns_the_loss_of_its_task(tokenizer):
    assert tiny_model(get_task("stsb"), tokenizer).config.problem_type == "regression"
    config = tiny_model(get_task("mnli"), tokenizer).config
    assert config.problem_type == "single_label_classification"
    assert config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}


def test_a_subset_is_a_function_of_its_seed():
    dataset = Dataset.from_dict({"number": list(range(100))})
    first = subset(dataset, 10, seed=1)["number"]
    assert first == subset(dataset, 10, seed=1)["number"] != subset(dataset, 10, seed=2)["number"]
    assert len(set(first)) == 10
    assert sorted(subset(dataset, 1000)["number"]) == list(range(100))
    with pytest.raises(ValueError, match="at least one"):
        subset(dataset, 0)
