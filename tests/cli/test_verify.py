"""`hf-mpq verify`: the gate, and its numbers against plain arithmetic."""

import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import f1_score

import hf_mpq
from hf_mpq.cli.models import load_float, load_packed, load_tokenizer
from tests.cli.conftest import LABELS, sentence
from tests.plugin.models import read_tensors, signed_anew, write_tensors
from tests.tiny import tiny_model

TEACHER = ("--teacher", "my-fine-tuned-bert")


def test_good_enough(here, run_json):
    found = run_json("verify", "packed", *TEACHER, "--data", "rows.csv", "--max-drop", "1.0")
    assert found["passed"] and found["failed"] == [] and found["metric"] == "accuracy" and found["rows"] == 96
    assert found["teacher"] == 100.0 and found["drop"] == found["teacher"] - found["packed"]
    assert found["label_loyalty"] > 0.97 and found["probability_loyalty"] > 0.95


def test_not_good_enough(here, run, run_json):
    found = run_json("verify", "worse", *TEACHER, "--data", "rows.csv", code=1)
    assert not found["passed"] and found["failed"] == ["drop"] and found["limits"] == {"drop": 1.0}
    assert found["drop"] > 20
    page = run("verify", "worse", *TEACHER, "--data", "rows.csv", "--min-label-loyalty", "0.9", code=1).stdout
    assert "FAILED: drop, label_loyalty" in page and "at least 0.9" in page


@pytest.mark.parametrize("option", ["--min-label-loyalty", "--min-probability-loyalty"])
def test_loyalty_needs_no_labels(option, here, run_json):
    assert run_json("verify", "packed", *TEACHER, "--data", "rows.txt", option, "0.9")["passed"]
    failed = run_json("verify", "worse", *TEACHER, "--data", "rows.txt", option, "0.9", code=1)
    assert failed["failed"] == [option[6:].replace("-", "_")] and failed["drop"] is None


def test_the_numbers(here, run_json):
    """Against logits one text at a time."""
    found = run_json("verify", "worse", *TEACHER, "--data", "rows.jsonl", "--eval-rows", "20", code=1)
    words, texts = load_tokenizer("worse"), Dataset.from_json("rows.jsonl")[:20]
    inputs = [words(text, return_tensors="pt") for text in texts["text"]]
    with torch.no_grad():
        first, second = (
            [model(**one).logits[0].softmax(-1).double().numpy() for one in inputs]
            for model in (load_float(TEACHER[1]), load_packed("worse"))
        )
    labels = [("negative", "positive").index(label) for label in texts["label"]]
    right = 100 * np.mean([p.argmax() == label for p, label in zip(second, labels)])
    agreed = np.mean([p.argmax() == q.argmax() for p, q in zip(first, second)])
    close = np.mean([1 - jensenshannon(p, q, base=2) for p, q in zip(first, second)])
    assert found["packed"] == pytest.approx(right) and found["label_loyalty"] == pytest.approx(agreed)
    assert found["probability_loyalty"] == pytest.approx(close, abs=1e-4)


def test_a_task_by_name(here, run_json):
    found = run_json("verify", "packed", *TEACHER, "--data", "sst2", "--data-dir", "data", "--max-length", "16")
    assert found["passed"] and found["teacher"] == 100.0
    assert run_json("verify", "packed", *TEACHER, "--task", "sst2", "--data", "data/sst2/train.jsonl")["passed"]


@pytest.fixture
def other_heads(tmp_path, tokenizer):
    """Makes a float and a packed folder of a random model with another head."""

    def make(head, **options):
        sizes = {"vocab_size": len(tokenizer), "pad_token_id": 0}
        tiny_model("bert", head, **sizes, **options).save_pretrained(tmp_path / "float")
        small = hf_mpq.quantize(load_float(tmp_path / "float"), hf_mpq.MPQConfig(bits=8, groups=8))
        hf_mpq.pack(small).save_pretrained(tmp_path / "packed")
        tokenizer.save_pretrained(tmp_path / "packed")
        return tmp_path / "packed", "--teacher", tmp_path / "float"

    return make


TAGS = ("bug", "docs", "speed")
SEVERAL = {
    "num_labels": 3,
    "problem_type": "multi_label_classification",
    "id2label": dict(enumerate(TAGS)),
    "label2id": {tag: number for number, tag in enumerate(TAGS)},
}
FORMS = {
    "indicators": [[1, 0, 1], [0, 0, 0], [0, 1, 0]],
    "floats": [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    "names": [["bug", "speed"], [], ["docs"]],
    "numbers": [[0, 2], [], [1]],
}


@pytest.mark.parametrize("form", FORMS)
def test_several_labels(form, other_heads, tmp_path, run_json):
    rows = Dataset.from_dict({"text": ["a list", "of names", "when every"], "labels": FORMS[form]})
    rows.to_parquet(tmp_path / "rows.parquet")
    packed, *teacher = other_heads("sequence", **SEVERAL)
    given = ("verify", packed, *teacher, "--data", tmp_path / "rows.parquet", "--max-drop", "100")
    found, words = run_json(*given), load_tokenizer(packed)
    with torch.no_grad():
        texts = [words(text, return_tensors="pt") for text in rows["text"]]
        held = [
            torch.cat([model(**text).logits > 0 for text in texts]).int().numpy()
            for model in (load_float(teacher[1]), load_packed(packed))
        ]
    right = np.array(FORMS["indicators"])
    assert found["metric"] == "micro_f1"
    assert found["packed"] == pytest.approx(100 * f1_score(right, held[1], average="micro"))
    assert found["metrics"]["subset_accuracy"] == pytest.approx((right == held[1]).all(1).mean())
    assert found["label_loyalty"] == pytest.approx((held[0] == held[1]).all(1).mean())


def test_a_wrong_label_among_several_is_named(other_heads, tmp_path, refused):
    Dataset.from_dict({"text": ["a list"], "labels": [["bug", "typo"]]}).to_parquet(tmp_path / "rows.parquet")
    given = (*other_heads("sequence", **SEVERAL), "--data", tmp_path / "rows.parquet")
    assert "the labels ['typo'] are none of the model's 3 labels" in refused("verify", *given)


def test_a_task_of_one_label_does_not_score_several(other_heads, tmp_path, refused):
    Dataset.from_dict({"sentence": ["a list", "of names"], "label": [0, 1]}).to_parquet(tmp_path / "rows.parquet")
    model = other_heads("sequence", problem_type="multi_label_classification", num_labels=2)
    given = (*model, "--data", tmp_path / "rows.parquet", "--task", "sst2")
    assert "any number of labels for a text, and 'sst2' asks for one label" in refused("verify", *given)


def test_several_labels_that_differ_are_not_loyal(other_heads, tmp_path, run_json):
    """One label is always on, and the likeliest of both models; the others are the contrary of what they were."""
    packed, *teacher = other_heads("sequence", **SEVERAL)
    for folder, sign in ((teacher[1], 1), (packed, -1)):
        tensors = read_tensors(folder)
        tensors["classifier.weight"] *= torch.tensor([[0.0], [sign], [sign]])
        tensors["classifier.bias"] = torch.tensor([99.0, 0, 0])
        write_tensors(folder, tensors, signed_anew(folder, tensors) if folder == packed else None)
    (tmp_path / "rows.txt").write_text("a list\nof names\nwhen every\n")
    given = (packed, *teacher, "--data", tmp_path / "rows.txt", "--min-label-loyalty", "0.01")
    found = run_json("verify", *given, code=1)
    assert found["label_loyalty"] == 0 and not found["passed"]


def test_regression(other_heads, tmp_path, run_json, refused):
    rows = {"sentence1": ["a list", "of names", "when every"], "sentence2": ["a list", "is", "raised"]}
    Dataset.from_dict({**rows, "label": [5.0, 2.5, 0.5]}).to_parquet(tmp_path / "pairs.parquet")
    given = (*other_heads("sequence", num_labels=1), "--data", tmp_path / "pairs.parquet", "--max-drop", "100")
    found = run_json("verify", *given)
    assert found["metric"] == "spearmanr" and found["label_loyalty"] is None and found["passed"]
    assert "check --max-drop alone" in refused("verify", *given, "--min-label-loyalty", "0.5")


def test_a_reranker(other_heads, tmp_path, run_json):
    """Rows of a query are ranked by the one output; what is compared is the order."""
    rows = [
        {"query": f"query {n // 4}", "passage": sentence(n)[0], "label": int(n % 4 == n // 4 % 4)} for n in range(24)
    ]
    Dataset.from_list(rows).to_csv(tmp_path / "ranked.csv")
    given = (*other_heads("sequence", num_labels=1), "--data", tmp_path / "ranked.csv", "--task", "ranking")
    found = run_json("verify", *given, "--max-drop", "100")
    assert found["passed"] and found["metric"] == "ndcg@10" and found["rows"] == 24
    assert set(found["metrics"]) == {"ndcg@10", "mrr@10"}
    assert 0 < found["packed"] <= 100 and found["label_loyalty"] is None


def test_a_reranker_with_columns_of_other_names(other_heads, tmp_path, run_json, refused):
    """Named columns are the task's, in their order, whatever else is called as those are."""
    rows = [
        {
            "q": f"query {n // 4}",
            "doc": sentence(n)[0],
            "grade": int(n % 4 == n // 4 % 4),
            "query": "x",
            "label": "good",
        }
        for n in range(24)
    ]
    Dataset.from_list(rows).to_csv(tmp_path / "ranked.csv")
    own = [{"query": row["q"], "passage": row["doc"], "label": row["grade"]} for row in rows]
    Dataset.from_list(own).to_csv(tmp_path / "own.csv")
    model = (*other_heads("sequence", num_labels=1), "--max-drop", "100", "--task", "ranking", "--data")
    named = ("--text-column", "q", "--text-column", "doc")
    found = run_json("verify", *model, tmp_path / "ranked.csv", *named, "--label-column", "grade")
    assert found == run_json("verify", *model, tmp_path / "own.csv")
    given = ("verify", *model, tmp_path / "ranked.csv")
    assert "query, passage: give --text-column for each" in refused(*given, "--text-column", "q")
    assert "no column 'doc2'" in refused(*given, "--text-column", "q", "--text-column", "doc2")
    assert "no column 'grade2'" in refused(*given, *named, "--label-column", "grade2")
    assert "write numbers into the column 'label'" in refused(*given, *named), "the label is a word"
    assert "lack the columns ['passage']" in refused(*given)


def test_regression_without_labels(other_heads, tmp_path, refused):
    (tmp_path / "rows.txt").write_text("a list\nof names\n")
    given = ("verify", *other_heads("sequence", num_labels=1), "--data", tmp_path / "rows.txt")
    assert "check --max-drop alone, on rows with labels" in refused(*given, "--min-label-loyalty", "0.9")
    assert "the data have no labels" in refused(*given)


def test_regression_with_empty_and_wrong_cells(other_heads, tmp_path, run, refused):
    (tmp_path / "rows.csv").write_text("text,label\na list,1.0\nof names,\n,2.0\nwhen every,0.5\n")
    model = other_heads("sequence", num_labels=1)
    given = ("verify", *model, "--max-drop", "200", "--data")
    done = run(*given, tmp_path / "rows.csv")
    assert "2 rows" in done.stdout and "left out 1 of 4 rows, which have no text in 'text'" in done.stderr
    assert "left out 1 of 3 rows, which have no label in 'label'" in done.stderr
    (tmp_path / "words.csv").write_text("text,label\na list,good\nof names,1.0\n")
    assert "write numbers into the column 'label'" in refused(*given, tmp_path / "words.csv")


@pytest.fixture
def broken(here, tmp_path):
    """Makes a packed folder whose head gives no finite number, although it holds some."""

    def make(source):
        folder = shutil.copytree(source, tmp_path / "nan")
        tensors = read_tensors(folder)
        tensors["classifier.weight"] = torch.full_like(tensors["classifier.weight"], torch.finfo(torch.float32).max)
        write_tensors(folder, tensors, signed_anew(folder, tensors))
        return folder

    return make


def strictly(text: str) -> dict:
    """As a parser has it that knows no NaN."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@pytest.mark.parametrize("label", ["positive", "negative"])
def test_a_model_without_numbers_fails(label, broken, tmp_path, run):
    """Whatever class is the first of equals: NaN has no likeliest one, and no score."""
    texts = [text for text, number in map(sentence, range(20)) if LABELS[number] == label]
    Dataset.from_dict({"text": texts, "label": [label] * len(texts)}).to_csv(tmp_path / "one.csv", index=False)
    given = ("verify", broken("packed"), *TEACHER, "--data", tmp_path / "one.csv")
    found = strictly(run(*given, "--min-label-loyalty", "0", "--min-probability-loyalty", "0", "--json", code=1).stdout)
    assert found["failed"] == ["drop", "probability_loyalty"] and not found["passed"]
    assert found["packed"] is found["drop"] is found["probability_loyalty"] is None and found["label_loyalty"] == 0
    assert found["metrics"] == {"accuracy": None} and found["float_metrics"]["accuracy"] == 1.0
    assert "FAILED: drop" in run(*given, code=1).stdout
    loyal = run(*given, "--min-label-loyalty", "0.01", code=1).stdout
    assert "label_loyalty" in loyal.splitlines()[-1]


def test_a_regression_without_numbers_fails(other_heads, broken, tmp_path, run):
    Dataset.from_dict({"text": ["a list", "of names"], "label": [1.0, 2.0]}).to_parquet(tmp_path / "rows.parquet")
    folder, *teacher = other_heads("sequence", num_labels=1)
    given = ("verify", broken(folder), *teacher, "--data", tmp_path / "rows.parquet", "--max-drop", "1000", "--json")
    assert strictly(run(*given, code=1).stdout)["drop"] is None


@pytest.mark.parametrize("labels", [[-1, -1], [None, None]])
def test_unlabelled_data(labels, here, tmp_path, run_json, refused):
    """No metric of labels that are not there; loyalty alone needs none."""
    Dataset.from_dict({"text": ["a list", "of names"], "label": labels}).to_parquet(tmp_path / "rows.parquet")
    given = ("verify", "packed", *TEACHER, "--data", tmp_path / "rows.parquet")
    for options in ((), ("--max-drop", "1"), ("--max-drop", "1", "--min-label-loyalty", "0.5")):
        assert "none of the 2 rows has a label in 'label', so give others" in refused(*given, *options)
    found = run_json(*given, "--min-label-loyalty", "0.5")
    assert found["metric"] is None and found["rows"] == 2 and found["limits"] == {"label_loyalty": 0.5}


def test_tagging(other_heads, tmp_path, run_json):
    tags = Dataset.from_dict(
        {"tokens": [["a", "list", "of", "names"], ["every", "value"]], "ner_tags": [[0, 1, 0, 2], [0, 3]]}
    )
    tags.to_json(tmp_path / "tags.jsonl")
    given = other_heads("token", num_labels=9)
    found = run_json("verify", *given, "--data", tmp_path / "tags.jsonl", "--task", "conll2003", "--max-drop", "100")
    assert found["metric"] == "f1" and found["label_loyalty"] * 6 == pytest.approx(round(found["label_loyalty"] * 6))


@pytest.mark.parametrize("tags", [[["O", "B-ORG"], ["I-ORG"]], [[0, 1], [2]]], ids=["names", "numbers"])
def test_own_words_and_tags(tags, other_heads, tmp_path, run_json):
    Dataset.from_dict({"tokens": [["every", "value"], ["names"]], "ner_tags": tags}).to_json(tmp_path / "tags.jsonl")
    names = dict(enumerate(("O", "B-ORG", "I-ORG")))
    given = other_heads("token", id2label=names, label2id={name: number for number, name in names.items()})
    found = run_json("verify", *given, "--data", tmp_path / "tags.jsonl", "--max-drop", "100")
    assert found["metric"] == "f1" and found["rows"] == 2 and found["label_loyalty"] in (0, 1 / 3, 2 / 3, 1)


def test_questions(other_heads, tmp_path, run_json):
    row = {
        "id": "1",
        "question": "what is returned",
        "context": "a list of names when every value is known",
        "answers": {"text": ["list"], "answer_start": [2]},
    }
    Dataset.from_list([row]).to_json(tmp_path / "questions.jsonl")
    given = (*other_heads("question"), "--data", tmp_path / "questions.jsonl", "--task", "squad", "--max-drop", "100")
    found = run_json("verify", *given)
    assert found["metric"] == "f1" and 0 < found["probability_loyalty"] <= 1 and found["label_loyalty"] in (0, 0.5, 1)


MISTAKES = [
    (("packed", *TEACHER, "--data", "rows.txt"), "the data have no labels"),
    (("packed", "--teacher", "packed", "--data", "rows.csv"), "is quantized already: give the float model"),
    (("my-fine-tuned-bert", *TEACHER, "--data", "rows.csv"), "make it small with `hf-mpq compress my-fine-tuned-bert"),
    (("packed", *TEACHER, "--data", "mnli", "--data-dir", "data"), "No folder 'data/mnli'"),
    (("packed", *TEACHER, "--data", "rows.csv", "--task", "stsb"), "lack the columns ['sentence1', 'sentence2']"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_mistakes(arguments, words, here, refused):
    assert words in refused("verify", *arguments)


def test_labels_that_are_not_the_models(here, tmp_path, refused):
    Dataset.from_dict({"text": ["a list"], "label": ["neutral"]}).to_csv(tmp_path / "neutral.csv", index=False)
    line = refused("verify", "packed", *TEACHER, "--data", tmp_path / "neutral.csv")
    assert "['neutral'] are none of the model's 2 labels, such as ['negative', 'positive']" in line


def test_labels_in_another_order(here, tmp_path, refused):
    """A metric of permuted labels would be a wrong number, not an error."""
    shutil.copytree("my-fine-tuned-bert", tmp_path / "turned")
    config = (tmp_path / "turned" / "config.json").read_text()
    turned = config.replace('"0": "negative"', '"0": "positive"').replace('"1": "positive"', '"1": "negative"')
    (tmp_path / "turned" / "config.json").write_text(turned)
    line = refused("verify", "packed", "--teacher", tmp_path / "turned", "--data", "sst2", "--data-dir", "data")
    assert "the model's labels are ['positive', 'negative']" in line


def test_head_of_another_task(here, tmp_path, refused, tokenizer):
    tiny_model("bert", "masked", vocab_size=len(tokenizer), pad_token_id=0).save_pretrained(tmp_path / "masked")
    line = refused("verify", "packed", "--teacher", tmp_path / "masked", "--data", "sst2", "--data-dir", "data")
    assert "needs a model of the kind ...ForSequenceClassification, this one is BertForMaskedLM" in line
