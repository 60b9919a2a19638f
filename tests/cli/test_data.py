"""Every kind of data that `--data` takes."""

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from hf_mpq.cli.data import Source, open_data
from hf_mpq.cli.errors import UserError
from hf_mpq.cli.models import config_of, load_float, load_tokenizer, longest_input
from tests.cli.conftest import LABELS
from tests.tiny import tiny_model

TEXTS = ["a list of names", "when every value", "is known", "or otherwise"]


@pytest.fixture
def config(home):
    return config_of(home / "my-fine-tuned-bert")


def table(**columns) -> Dataset:
    return Dataset.from_dict({"text": TEXTS, **columns})


def save(data: Dataset, folder, kind: str) -> str:
    """The path of a file or folder of that kind."""
    file = folder / f"rows.{kind}"
    if kind == "disk":
        data.save_to_disk(file)
    elif kind == "folder":
        file.mkdir()
        data.to_parquet(file / "train.parquet")
        data.select(range(2)).to_parquet(file / "test.parquet")
    elif kind == "txt":
        file.write_text("\n".join(data["text"]))
    elif kind in ("csv", "tsv"):
        data.to_csv(file, index=False, sep="\t" if kind == "tsv" else ",")
    else:
        {"parquet": data.to_parquet, "jsonl": data.to_json, "json": data.to_json}[kind](file)
    return str(file)


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl", "json", "txt", "disk", "folder"])
def test_files_and_folders(kind, config, home, tmp_path):
    """Text for calibration; labels, where the kind has some, as the model's ids."""
    found = open_data(Source(save(table(label=["positive", "negative"] * 2), tmp_path, kind)), config)
    words = load_tokenizer(home / "my-fine-tuned-bert")
    rows = found.calibration(words, 8, 3)
    assert len(rows) == 3 and {"input_ids", "attention_mask"} <= set(rows.column_names)
    assert "labels" not in rows.column_names and max(map(len, rows["input_ids"])) <= 8
    if kind == "txt":
        assert found.task is None
    else:
        assert found.evaluation()["label"][:2] == [1, 0] and found.task.headline == "accuracy"
    assert len(found.evaluation()) == (2 if kind == "folder" else 4)


def test_saved_dictionaries(config, tmp_path):
    DatasetDict(train=table(), validation=table().select([3])).save_to_disk(tmp_path / "both")
    assert open_data(Source(str(tmp_path / "both")), config).evaluation()["text"][:] == TEXTS[3:]


def test_class_labels_go_by_name(config, tmp_path):
    """Ids of a data set in another order than the model's."""
    data = table(label=[0, 1, 1, 0]).cast_column("label", ClassLabel(names=list(reversed(LABELS))))
    found = open_data(Source(save(data, tmp_path, "disk")), config)
    assert found.evaluation()["label"][:] == [1, 0, 0, 1]


def test_pairs_and_chosen_columns(config, home, tmp_path):
    words = load_tokenizer(home / "my-fine-tuned-bert")
    pairs = Dataset.from_dict({"premise": TEXTS, "hypothesis": TEXTS[::-1], "label": [0, 1, 0, 1]})
    found = open_data(Source(save(pairs, tmp_path, "jsonl")), config)
    assert found.text_columns == ("premise", "hypothesis")
    pair = words(TEXTS[0], TEXTS[3])["input_ids"]
    assert pair in found.calibration(words, 64, 4)["input_ids"][:]
    odd = Dataset.from_dict({"title": TEXTS, "body": TEXTS, "stars": [1, 0, 1, 0]})
    path = save(odd, tmp_path, "parquet")
    with pytest.raises(UserError, match=r"which column of .* is the text.*--text-column NAME"):
        open_data(Source(path), config)
    chosen = open_data(Source(path, text_columns=("body",), label_column="stars"), config)
    assert chosen.text_columns == ("body",) and chosen.task is not None


def test_tokenized_rows_are_taken_as_they_are(config, home, tmp_path):
    data = Dataset.from_dict({"input_ids": [[2, 5, 3], [2, 6, 7, 3]]})
    found = open_data(Source(save(data, tmp_path, "parquet")), config)
    assert sorted(found.calibration(load_tokenizer(home / "packed"), 8, 8)["input_ids"][:]) == [[2, 5, 3], [2, 6, 7, 3]]


def test_unreadable_files(config, tmp_path):
    (tmp_path / "rows.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="cannot read the data"):
        open_data(Source(str(tmp_path / "rows.parquet")), config)
    with pytest.raises(UserError, match="cannot read the data 'someone/data'"):
        open_data(Source("someone/data"), config)


@pytest.mark.parametrize(("family", "positions"), [("bert", 40), ("roberta", 38), ("mpnet", 38), ("deberta-v2", 40)])
def test_inputs_are_no_longer_than_the_model(family, positions):
    """RoBERTa's positions begin after the padding's."""
    model = tiny_model(family, "bare")
    assert longest_input(model, 128) == positions and longest_input(model, 16) == 16


def test_a_float_model_comes_in_float32(tmp_path):
    tiny_model("bert").bfloat16().save_pretrained(tmp_path)
    assert str(load_float(tmp_path).dtype) == "torch.float32"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Files of equal names in other tests are not taken from datasets' cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
