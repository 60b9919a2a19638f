import pytest
from datasets import ClassLabel, Dataset, Value

from hf_mpq.tasks import get_task

ROWS = {
    "cola": (8551, 1043),
    "sst2": (67349, 872),
    "mrpc": (3668, 408),
    "stsb": (5749, 1500),
    "rte": (2490, 277),
    "wnli": (635, 71),
    "qnli": (27346, 5463),
    "mnli": (9882, 9815),
    "qqp": (15000, 5212),
}
VALIDATION_LABELS = {
    "cola": [322, 721],
    "sst2": [428, 444],
    "mrpc": [129, 279],
    "rte": [146, 131],
    "wnli": [40, 31],
    "qnli": [2702, 2761],
    "mnli": [3479, 3123, 3213],
    "qqp": [3241, 1971],
}


@pytest.mark.parametrize("name", ROWS)
def test_local_data_have_the_rows_and_labels_of_the_task(name, data_dir):
    task = get_task(name)
    data = task.load(data_dir)
    assert (len(data["train"]), len(data["validation"])) == ROWS[name]
    label = Value("float32") if task.regression else ClassLabel(names=list(task.label_names))
    for split in data.values():
        assert set(split.column_names) == {*task.text_columns, "label", "idx"}
        assert split.features["label"] == label
    if not task.regression:
        labels = data["validation"]["label"][:]
        assert [labels.count(number) for number in range(len(task.label_names))] == VALIDATION_LABELS[name]


def test_pairs_are_encoded_in_order_and_cut(tokenizer):
    task = get_task("mnli")
    rows = Dataset.from_dict(
        {"premise": ["a module", "the file " * 50], "hypothesis": ["a class", "the socket"], "label": [0, 2]}
    )
    prepared = task.prepare(rows, tokenizer, 16)
    assert set(prepared.column_names) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert tokenizer.decode(prepared[0]["input_ids"]) == "[CLS] a module [SEP] a class [SEP]"
    assert [len(ids) for ids in prepared["input_ids"]] == [len(prepared[0]["input_ids"]), 16]
    assert prepared["labels"][:] == [0, 2] and prepared.features["labels"] == Value("int64")


def test_regression_labels_are_floats(tokenizer):
    rows = Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"], "label": [3]})
    prepared = get_task("stsb").prepare(rows, tokenizer, 16)
    assert prepared.features["labels"] == Value("float32") and prepared["labels"][:] == [3.0]
