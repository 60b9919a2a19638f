"""Every kind of data that `--data` takes."""

import math
import shutil

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import PretrainedConfig

from hf_mpq.cli.errors import UserError
from hf_mpq.cli.models import config_of, load_float, load_tokenizer, longest_input
from hf_mpq.cli.rows.data import Source, open_data
from hf_mpq.tasks import get_task
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
    shutil.rmtree(file, ignore_errors=True)
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


def test_labels_that_are_not_the_models(config, home, tmp_path):
    """They count only in the rows that are scored: not in others, and not for calibration."""
    path = tmp_path / "both"
    DatasetDict(train=table(label=["sports"] * 4), validation=table(label=["positive", "arts"] * 2)).save_to_disk(path)
    found = open_data(Source(str(path)), config)
    assert len(found.calibration(load_tokenizer(home / "my-fine-tuned-bert"), 8, 8)) == 4
    assert found.evaluation(1)["label"][:] == [1]
    with pytest.raises(UserError, match=r"the labels \['arts'\] are none of the model's 2 labels"):
        found.evaluation()


@pytest.mark.parametrize("lists", [False, True], ids=["words", "lists"])
def test_any_unknown_label_is_a_mistake_of_one_line(lists, config, tmp_path):
    path = save(table(label=[["positive"]] * 4 if lists else ["neutral"] * 4), tmp_path, "parquet")
    with pytest.raises(UserError, match="none of the model's 2 labels"):
        open_data(Source(path), config).evaluation()


@pytest.mark.parametrize("labels", [[1, -1, 0, None], ["positive", "", "negative", None], [1.0, math.nan, 0.0, -1.0]])
def test_rows_without_label_are_left_out(labels, config, tmp_path, capsys):
    """The Hub has -1 there, files have nothing."""
    found = open_data(Source(save(table(label=labels), tmp_path, "parquet")), config).evaluation()
    assert found["label"][:] == [1, 0] and found["text"][:] == [TEXTS[0], TEXTS[2]]
    assert "split 'train': left out 2 of 4 rows, which have no label in 'label'" in capsys.readouterr().err


@pytest.mark.parametrize("task", [None, "sst2"])
def test_unlabelled_rows_of_class_labels(task, config, tmp_path):
    """-1 is no index of the last class."""
    data = Dataset.from_dict({"sentence": TEXTS, "label": [-1] * 4})
    path = save(data.cast_column("label", ClassLabel(names=list(LABELS))), tmp_path, "disk")
    found = open_data(Source(path, task=task), config)
    with pytest.raises(UserError, match="none of the 4 rows has a label in 'label', so give others, or another"):
        found.evaluation()
    alone = found.without_empty_labels()
    assert alone.task is None and alone.evaluation()["sentence"][:] == TEXTS


def test_numbers_as_labels(config, tmp_path):
    """-1 is a number like others, but where it is the only one the Hub means that there is none."""
    regression = PretrainedConfig(num_labels=1)
    found = [
        open_data(Source(save(table(label=labels), tmp_path, "parquet")), regression)
        for labels in ([-1.0, 0.5, None, 1.0], [-1.0] * 4, ["0.5", "1", "good", "2"])
    ]
    assert found[0].evaluation()["label"][:] == [-1.0, 0.5, 1.0]
    with pytest.raises(UserError, match="none of the 4 rows has a label"):
        found[1].evaluation()
    with pytest.raises(UserError, match=r"the labels \['good'\] are no numbers.* another --label-column"):
        found[2].evaluation()


def test_calibration_of_a_task_is_its_own_rows_without_labels(config, home, tmp_path):
    """For each kind of task, what its preparation with labels gives."""
    words = load_tokenizer(home / "my-fine-tuned-bert")
    split = [text.split() for text in TEXTS]
    rows = {
        "sst2": {"sentence": TEXTS, "label": [0, 1, 1, 0]},
        "conll2003": {"tokens": split, "ner_tags": [[0] * len(text) for text in split]},
        "squad": {
            "id": list("abcd"),
            "question": TEXTS,
            "context": TEXTS[::-1],
            "answers": [{"text": [text[:4]], "answer_start": [0]} for text in TEXTS[::-1]],
        },
    }
    for name, columns in rows.items():
        task, data = get_task(name), Dataset.from_dict(columns)
        bare = data.select_columns(list(task.text_columns))
        wanted = task.prepare(data, words, 12)
        found = open_data(Source(save(bare, tmp_path, "parquet"), task=name), config).calibration(words, 12, 4)
        assert set(found.column_names) == {"input_ids", "attention_mask", "token_type_ids"}
        assert sorted(found["input_ids"][:]) == sorted(wanted["input_ids"][:])
        with pytest.raises(ValueError, match="lack the columns"):
            open_data(Source(save(bare, tmp_path, "parquet"), task=name), config).evaluation()


@pytest.fixture
def configurations(tmp_path):
    """A data set of two configurations, as on the Hub."""
    folder = tmp_path / "glue"
    for name, label in (("cola", "negative"), ("sst2", "positive")):
        (folder / name).mkdir(parents=True)
        table(label=[label] * 4).to_parquet(folder / name / "train.parquet")
    parts = "".join(f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in ("cola", "sst2"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{parts}---\n")
    return str(folder)


def test_configurations(configurations, config):
    found = open_data(Source(configurations, config="sst2"), config)
    assert found.evaluation()["label"][:] == [1] * 4
    with pytest.raises(UserError, match=r"available configs: \['cola', 'sst2'\]: name one with --data-config$"):
        open_data(Source(configurations), config)
    with pytest.raises(UserError, match=r"'mnli' not found.*: name one with --data-config$"):
        open_data(Source(configurations, config="mnli"), config)


def test_the_hub_is_asked_for_the_configuration(config, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or table(label=[0, 1, 1, 0]))
    open_data(Source("nyu-mll/glue", config="sst2"), config)
    assert asked == [("nyu-mll/glue", "sst2")]


@pytest.mark.parametrize("kind", ["csv", "disk", "task"])
def test_data_without_configurations(kind, config, tmp_path):
    name = "sst2" if kind == "task" else save(table(label=[0, 1, 1, 0]), tmp_path, kind)
    with pytest.raises(UserError, match="has no configurations: leave out --data-config sst2"):
        open_data(Source(name, config="sst2"), config)


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


@pytest.mark.parametrize("quoted", [[], [1], [1, 3]])
def test_quotation_marks_in_tab_separated_files_are_letters(quoted, config, tmp_path):
    texts = [f'"said {text}' if number in quoted else text for number, text in enumerate(TEXTS)]
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{n % 2}\n" for n, text in enumerate(texts)))
    found = open_data(Source(str(tmp_path / "rows.tsv")), config).evaluation()
    assert found["text"][:] == texts and found["label"][:] == [0, 1, 0, 1]


def test_lines_that_quotation_marks_join_are_said(config, tmp_path, capsys):
    (tmp_path / "rows.csv").write_text('text,label\na list,0\n"of names\nwhen,1\n\nevery" value,1\nis known,0\n')
    assert len(open_data(Source(str(tmp_path / "rows.csv")), config).evaluation()) == 3
    said = capsys.readouterr().err
    assert "5 lines are 3 rows, because text in quotation marks goes on" in said and "save it as .tsv" in said
    (tmp_path / "open.csv").write_text('text,label\na list,0\n"of names,1\nis known,0\n')
    with pytest.raises(UserError, match=r"cannot read the data .*open.csv.*EOF inside string"):
        open_data(Source(str(tmp_path / "open.csv")), config)


WORDS = [["a", "list", "of", "names"], ["every", "value"], ["is"]]
TAGS = ("O", "B-PER", "I-PER")
TAGGED = {
    "names": [["O", "O", "O", "B-PER"], ["O", "I-PER"], ["O"]],
    "numbers": [[0, 0, 0, 1], [0, 2], [0]],
    "with -100": [[0, 0, 0, 1], [-100, 2], [0]],
}


def tagger(names=TAGS) -> PretrainedConfig:
    return PretrainedConfig(architectures=["BertForTokenClassification"], id2label=dict(enumerate(names)))


@pytest.mark.parametrize("columns", [("tokens", "ner_tags"), ("words", "tags"), ("tokens", "labels")], ids="-".join)
@pytest.mark.parametrize("form", TAGGED)
def test_words_and_their_labels(form, columns, home, tmp_path):
    """As the task for it prepares them; a number or a second list of words beside them changes nothing."""
    rows = Dataset.from_dict(
        {
            "id": list("abc"),
            columns[0]: WORDS,
            columns[1]: TAGGED[form],
            "lemmas": [[word.lower() for word in row] for row in WORDS],
        }
    )
    found = open_data(Source(save(rows, tmp_path, "jsonl")), tagger())
    assert (found.text_columns, found.task.label_column, found.task.headline) == (columns[:1], columns[1], "f1")
    assert found.evaluation()[columns[1]][:] == TAGGED["with -100" if "100" in form else "numbers"]
    words = load_tokenizer(home / "my-fine-tuned-bert")
    prepared = found.task.prepare(found.evaluation(), words, 64)
    calibration = found.calibration(words, 64, 3)
    assert sorted(calibration["input_ids"][:]) == sorted(prepared["input_ids"][:])
    assert sorted(sum(ids) for ids in calibration["token_type_ids"][:]) == [0, 0, 0], "two words are no pair"


def test_labels_of_words_by_the_names_of_a_data_set(tmp_path):
    feature = datasets.List(ClassLabel(names=list(reversed(TAGS))))
    rows = Dataset.from_dict({"tokens": WORDS, "ner_tags": [[2, 2, 2, 1], [2, 0], [2]]})
    found = open_data(Source(save(rows.cast_column("ner_tags", feature), tmp_path, "disk")), tagger())
    assert found.evaluation()["ner_tags"][:] == TAGGED["numbers"]


def test_labels_that_are_no_chunks_are_counted_one_by_one(tmp_path):
    rows = Dataset.from_dict({"tokens": WORDS, "pos_tags": [["DET", "NOUN", "ADP", "NOUN"], ["DET", "NOUN"], ["VERB"]]})
    task = open_data(Source(save(rows, tmp_path, "jsonl")), tagger(("DET", "NOUN", "ADP", "VERB"))).task
    assert (task.label_column, task.headline) == ("pos_tags", "accuracy")


def test_wrong_labels_of_words(tmp_path):
    for tags, words in (
        ([["O"], ["O", "O"], ["O"]], "first number 1, have not one label in 'ner_tags' for each word"),
        ([["O"] * 4, ["O", "B-LOC"], ["O"]], r"labels \['B-LOC'\] are none of the model's 3"),
    ):
        path = save(Dataset.from_dict({"tokens": WORDS, "ner_tags": tags}), tmp_path, "jsonl")
        with pytest.raises(UserError, match=words):
            open_data(Source(path), tagger()).evaluation()


def test_lists_of_words_for_a_classifier(config, home, tmp_path):
    """Two words are no pair of texts, for calibration and for scoring."""
    path = save(Dataset.from_dict({"tokens": WORDS, "label": [0, 1, 0]}), tmp_path, "jsonl")
    found, words = open_data(Source(path), config), load_tokenizer(home / "my-fine-tuned-bert")
    expected = sorted(words([" ".join(row) for row in WORDS])["input_ids"])
    assert sorted(found.calibration(words, 64, 3)["input_ids"][:]) == expected
    assert sorted(found.task.prepare(found.evaluation(), words, 64)["input_ids"][:]) == expected


@pytest.mark.parametrize("splits", [["train"], ["train", "dev"], ["one", "two"]], ids="-".join)
def test_tables_in_a_folder_are_read_as_alone(splits, config, tmp_path, capsys):
    for split in splits:
        (tmp_path / f"{split}.tsv").write_text('text\tlabel\n"a\tpositive\n"b\tnegative\nc\tpositive\nd"\tnegative\n')
    found = open_data(Source(str(tmp_path)), config)
    assert sum(map(len, found.splits.values())) == 4 * len(splits)
    assert found.evaluation()["text"][:4] == ['"a', '"b', "c", 'd"']
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "train.csv").write_text('text,label\n"a,positive\nb",negative\nc,positive\n')
    assert len(open_data(Source(str(tmp_path / "csv")), config).evaluation()) == 2
    assert "3 lines are 2 rows" in capsys.readouterr().err


def test_cells_beyond_the_columns(config, tmp_path):
    """An empty one at the end of every line is nothing; the columns never move."""
    for kind, sign in (("csv", ","), ("tsv", "\t")):
        file = tmp_path / f"rows.{kind}"
        file.write_text("text,label\na,positive,\nb,negative,\n".replace(",", sign))
        assert open_data(Source(str(file)), config).evaluation()["text"][:] == ["a", "b"]
        file.write_text("text,label\na,positive\nb, and more,negative\n".replace(",", sign))
        with pytest.raises(UserError, match=r"line 3 of .* has 3 cells, and the first line names 2 columns: put texts"):
            open_data(Source(str(file)), config)


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_other_separators(sign, config, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\na,positive\n".replace(",", sign))
    with pytest.raises(UserError, match=r"the columns of .* are separated by (semicolons|tabs|bars)"):
        open_data(Source(str(file)), config)


@pytest.mark.parametrize("word", ["NA", "None", "null", "nan", "N/A"])
def test_words_that_tables_have_for_nothing(word, tmp_path, capsys):
    """Texts and labels that are called so are texts and labels; in place of a label of another model they are none."""
    (tmp_path / "rows.CSV").write_text(f"text,label\n{word},{word}\nb,good\n,good\n")
    for names, labels in ((("good", word), [1, 0]), (("good", "bad"), [0])):
        config = tiny_model("bert", id2label=dict(enumerate(names))).config
        found = open_data(Source(str(tmp_path / "rows.CSV")), config).evaluation()
        assert found["label"][:] == labels and found["text"][:] == [word, "b"][-len(labels) :]
    assert "left out 1 of 2 rows, which have no label" in capsys.readouterr().err


def test_labels_whose_names_are_numbers(tmp_path):
    """Stars from 1 to 3 are not the numbers 0 to 2; names that say something may be written as their numbers."""
    stars = tiny_model("bert", id2label={0: "1", 1: "2", 2: "3"}).config
    for kind, labels in (("csv", [1, 2, 3]), ("jsonl", ["1", "2", "3"])):
        data = Dataset.from_dict({"text": TEXTS[:3], "label": labels})
        assert open_data(Source(save(data, tmp_path, kind)), stars).evaluation()["label"][:] == [0, 1, 2]
    named = tiny_model("bert", id2label={0: "bad", 1: "good"}).config
    data = Dataset.from_dict({"text": TEXTS[:2], "label": ["1", "0"]})
    assert open_data(Source(save(data, tmp_path, "jsonl")), named).evaluation()["label"][:] == [1, 0]


def test_class_labels_in_another_case_or_of_other_names(config, tmp_path, capsys):
    """Those of another case go by name; others by their numbers, which is said."""
    for names, labels in (("POSITIVE", "Negative"), [1, 0]), (("yes", "no"), [0, 1]):
        data = table(label=[0, 1, 0, 1]).cast_column("label", ClassLabel(names=list(names)))
        assert open_data(Source(save(data, tmp_path, "disk")), config).evaluation()["label"][:2] == labels
    said = capsys.readouterr().err
    assert "are called yes, no, and those of the model negative, positive" in said and "POSITIVE" not in said


def test_words_that_are_none(tmp_path, capsys):
    rows = Dataset.from_dict({"tokens": [["a", None], ["b", "c"]], "ner_tags": [[0, 0], [0, 1]]})
    assert len(open_data(Source(save(rows, tmp_path, "jsonl")), tagger()).evaluation()) == 1
    assert "left out 1 of 2 rows" in capsys.readouterr().err


def test_a_task_and_names_of_columns(config, tmp_path):
    """Columns that are named are read as the task's; the data of a task by name have their own."""
    rows = Dataset.from_dict({"sentence": ["a"] * 4, "said": TEXTS, "mood": [0, 1, 0, 1], "label": [0] * 4})
    path = save(rows, tmp_path, "parquet")
    found = open_data(Source(path, task="sst2", text_columns=("said",), label_column="mood"), config).evaluation()
    assert found["sentence"][:] == TEXTS and found["label"][:] == [0, 1, 0, 1]
    found = open_data(Source(path, task="mrpc", text_columns=("said", "sentence")), config).splits["train"]
    assert found["sentence1"][:] == TEXTS and found["sentence2"][:] == ["a"] * 4
    with pytest.raises(UserError, match="leave out --text-column"):
        open_data(Source("sst2", tmp_path, text_columns=("said",)), config)
    with pytest.raises(UserError, match="sst2 is a task by itself: leave out --task cola"):
        open_data(Source("sst2", tmp_path, task="cola"), config)
    with pytest.raises(UserError, match="leave out --label-column"):
        open_data(Source("sst2", tmp_path, label_column="mood"), config)


@pytest.mark.parametrize(
    "name, text", [("rows.csv", "text,label\n"), ("rows.tsv", "text\tlabel\n"), ("rows.jsonl", ""), ("rows.txt", "")]
)
def test_a_file_without_a_row(name, text, config, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=r"cannot read the data .*: it has no rows"):
        open_data(Source(str(tmp_path / name)), config)
