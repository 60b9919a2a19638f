import json
import logging

import datasets
import pytest
from datasets import ClassLabel, Dataset

from hf_mpq.tasks import get_task, source

ROWS = {"sentence": ["good", "bad", "fine"], "label": [1, 0, 1], "idx": [0, 1, 2]}


def write(folder, name, rows):
    folder.mkdir(exist_ok=True)
    if name.endswith(".parquet"):
        Dataset.from_dict(rows).to_parquet(folder / name)
    else:
        lines = (json.dumps(dict(zip(rows, row))) for row in zip(*rows.values()))
        (folder / name).write_text("\n".join(lines))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No folder .*sst2.*data_dir=.*leave it out"):
        get_task("sst2").load(tmp_path)


@pytest.mark.parametrize(("name", "stem"), [("sst2", "validation"), ("mnli", "validation_matched")])
def test_a_missing_split_lists_what_was_looked_for(tmp_path, name, stem):
    write(tmp_path / name, "train.parquet", ROWS)
    with pytest.raises(FileNotFoundError, match=rf"'{stem}'.*{stem}.parquet, {stem}.jsonl, {stem}_subset.parquet"):
        get_task(name).load(tmp_path)


@pytest.mark.parametrize("labels", [[1, 0, 1], ["positive", "negative", "positive"]], ids=["ids", "names"])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_both_formats_give_the_features_of_the_task(tmp_path, suffix, labels):
    for split in ("train", "validation"):
        write(tmp_path / "sst2", f"{split}.{suffix}", {**ROWS, "label": labels})
    data = get_task("sst2").load(tmp_path)
    assert list(data) == ["train", "validation"]
    assert data["train"].features["label"] == ClassLabel(names=["negative", "positive"])
    assert data["validation"]["label"][:] == [1, 0, 1]


def test_json_lines_of_the_other_kinds(tmp_path):
    answers = [{"text": ["Oslo"], "answer_start": [0]}]
    for split in ("train", "validation"):
        write(
            tmp_path / "squad",
            f"{split}.jsonl",
            {"id": ["a"], "context": ["Oslo is cold."], "question": ["What?"], "answers": answers},
        )
        write(tmp_path / "conll2003", f"{split}.jsonl", {"tokens": [["Ann", "ran"]], "ner_tags": [["B-PER", "O"]]})
    assert get_task("squad").load(tmp_path)["train"]["answers"][0] == answers[0]
    assert get_task("conll2003").load(tmp_path)["train"]["ner_tags"][0] == [1, 0]


def test_the_whole_split_is_preferred_and_a_part_warns(tmp_path, caplog):
    write(tmp_path / "sst2", "train_subset.parquet", {name: column[:1] for name, column in ROWS.items()})
    write(tmp_path / "sst2", "validation.parquet", ROWS)
    with caplog.at_level(logging.WARNING, logger=source.__name__):
        assert len(get_task("sst2").load(tmp_path)["train"]) == 1
    assert "train_subset.parquet is not the official split" in caplog.text
    write(tmp_path / "sst2", "train.jsonl", ROWS)
    assert len(get_task("sst2").load(tmp_path)["train"]) == 3


def test_missing_columns_are_named(tmp_path):
    for split in ("train", "validation"):
        write(tmp_path / "mrpc", f"{split}.parquet", ROWS)
    with pytest.raises(ValueError, match=r"'mrpc' lack the columns \['sentence1', 'sentence2'\]"):
        get_task("mrpc").load(tmp_path)


def test_labels_in_another_order_are_refused(tmp_path):
    turned = Dataset.from_dict(ROWS).cast_column("label", ClassLabel(names=["positive", "negative"]))
    (tmp_path / "sst2").mkdir()
    for split in ("train", "validation"):
        turned.to_parquet(tmp_path / "sst2" / f"{split}.parquet")
    with pytest.raises(ValueError, match=r"\['positive', 'negative'\], not \['negative', 'positive'\]"):
        get_task("sst2").load(tmp_path)


def test_the_hub_is_asked_by_name_and_revision(monkeypatch):
    asked = []

    def fake(path, config, split, revision):
        asked.append((path, config, split, revision))
        texts = {"premise": ["a"], "hypothesis": ["b"], "tokens": [["a"]]}
        return Dataset.from_dict({**texts, "label": [2], "ner_tags": [[0]]})

    monkeypatch.setattr(source, "load_dataset", fake)
    assert get_task("mnli").load()["train"].features["label"].names[2] == "contradiction"
    get_task("conll2003").load()
    assert asked == [
        ("nyu-mll/glue", "mnli", "train", None),
        ("nyu-mll/glue", "mnli", "validation_matched", None),
        ("eriktks/conll2003", None, "train", "refs/convert/parquet"),
        ("eriktks/conll2003", None, "validation", "refs/convert/parquet"),
    ]


def test_without_the_hub_the_error_names_data_dir(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"'nyu-mll/glue' from the Hub.*give data_dir="):
        get_task("sst2").load()
