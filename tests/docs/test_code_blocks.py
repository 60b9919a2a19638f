"""The code of the README and of every page does what it says, on tiny models in place of the reader's.

The blocks of a page are run one after the other, as a reader would. What a page takes as given is in `given`.
"""

import re
import shutil
from pathlib import Path

import pytest
import sentence_transformers
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

import hf_mpq
from hf_mpq._extras import unmet as without
from hf_mpq.exporters.base import unmet
from tests.docs.pages import METHODS, PAGES, blocks, name_of
from tests.tiny import tiny_model
from tests.training.runs import collate, sentences

pytestmark = pytest.mark.usefixtures("few_iterations")
SMALL = {
    '"60MB"': '"85kB"',
    '"0.125x"': '"0.5x"',
    '"0.2x"': '"0.3x"',
    '"20%"': '"30%"',
    '"0.15x"': '"0.29x"',
    '"2.5bits"': '"3bits"',
    "num_train_epochs=3": "num_train_epochs=1, use_cpu=True",
    'tasks=("sst2",)': 'tasks=("sst2",), data_dir="data"',
    '"num_train_epochs": 3': '"num_train_epochs": 1, "groups": 4',
}
"""Budgets that a tiny model can have, and a short training."""
ELSEWHERE = {"push_to_hub": "hub/hub_client.py", "gliner": "plugin/test_gliner.py"}
"""Blocks that need a server, or a package that is not always there, and what runs them."""
NLI = ("entailment", "neutral", "contradiction")
"""Labels of a model for zero-shot classification."""
ALWAYS = ("docs/concepts.md", "docs/guides/config.md", "docs/guides/nested.md", "docs/guides/lora.md")
"""Pages that take a second; the others are for the full run."""
WRITTEN = re.compile(r'(?:save_pretrained|save_packed)\("([^"]+)"\)')


def models(folder: Path, tokenizer) -> None:
    """Folders of a reader: fine-tuned models with their tokenizer, packed ones, and one of nested codes."""
    size = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "num_hidden_layers": 1}
    size["max_position_embeddings"] = 128
    heads = {
        "my-fine-tuned-bert": ("sequence", {}),
        "my-embedder": ("bare", {}),
        "my-reranker": ("sequence", {"num_labels": 1}),
        "my-nli-model": ("sequence", {"id2label": dict(enumerate(NLI)), "label2id": {k: n for n, k in enumerate(NLI)}}),
        "my-tagger": ("token", {}),
        "my-reader": ("question", {}),
        "my-pretrained-bert": ("masked", {}),
    }
    for name, (head, changes) in heads.items():
        tiny_model("bert", head, **size, **changes).save_pretrained(folder / name)
    pruned = tiny_model("bert", **size)
    with torch.no_grad():
        for weight in (one for one in pruned.bert.encoder.parameters() if one.dim() == 2):
            weight.mul_(weight.abs() > weight.abs().quantile(0.9))
    pruned.save_pretrained(folder / "my-pruned-bert")
    packings = {"my-packed-bert": {"bits": 4}, "my-nested-bert": {"bits": (2, 4, 8), "nested": True}}
    for name, options in packings.items():
        config = hf_mpq.MPQConfig(**options, **({"switchable_norms": True} if "nested" in name else {}))
        hf_mpq.pack(hf_mpq.quantize(tiny_model("bert", **size), config)).save_pretrained(folder / name)
    size.pop("max_position_embeddings")
    modern = {"bos_token_id": None, "eos_token_id": None, "cls_token_id": None, "sep_token_id": None}
    long = tiny_model("modernbert", **size, **modern, max_position_embeddings=8192)
    hf_mpq.pack(hf_mpq.quantize(long, hf_mpq.MPQConfig(bits=8))).save_pretrained(folder / "packed-modernbert")
    for name in (*heads, *packings, "my-pruned-bert"):
        tokenizer.save_pretrained(folder / name)
    late_interaction(folder / "my-embedder").save_pretrained(str(folder / "my-colbert"))
    ranked = [{"query": "a list", "passage": f"returns {k} values", "label": float(k == 1)} for k in range(4)]
    Dataset.from_list(ranked).to_csv(folder / "ranked.csv")
    rows = Dataset.from_list([{"sentence": f"returns {k} values", "label": k % 2} for k in range(16)])
    for split in ("train", "validation"):
        rows.to_json(folder / "data" / "sst2" / f"{split}.jsonl")


def late_interaction(folder: Path) -> nn.Module:
    """An embedder's encoder with a vector for each token; without sentence-transformers 6 the embedder itself."""
    kind = getattr(sentence_transformers, "MultiVectorEncoder", sentence_transformers.SentenceTransformer)
    return kind(str(folder), device="cpu")


@pytest.fixture
def given(tmp_path, monkeypatch, tokenizer, made_once) -> dict:
    """What pages take as given: the folders above, a float model, a packed one, rows, texts, scores."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made_once("docs-models", lambda folder: models(folder, tokenizer)), tmp_path, dirs_exist_ok=True)
    model = AutoModelForSequenceClassification.from_pretrained("my-fine-tuned-bert")
    space = hf_mpq.MPQConfig(bits=(2, 3, 4, 8)).resolve(model)
    texts = ["returns the list", "raises an error"]
    return {
        "hf_mpq": hf_mpq,
        "AutoModel": AutoModel,
        "AutoModelForSequenceClassification": AutoModelForSequenceClassification,
        "model": model,
        "packed": AutoModelForSequenceClassification.from_pretrained("my-packed-bert"),
        "encoder": AutoModel.from_pretrained("my-embedder"),
        "tokenizer": tokenizer,
        "scores": {name: torch.rand(spec.layout.count, len(spec.candidates)) for name, spec in space.weights.items()},
        "tokenized_rows": Dataset.from_dict({"input_ids": [[3, 4, 5], [6, 7, 8, 9]]}),
        "texts": texts,
        "corpus": texts,
        "sentences": [text.split() for text in texts],
        "train": sentences(32),
        "dev": sentences(8),
        "collator": collate,
        "accuracy": lambda model: 1.0,
    }


WITH_CODE = [page for page in PAGES if blocks(page, "python")]


def cases() -> list:
    marks = {True: [], False: [pytest.mark.full]}
    return [pytest.param(page, id=name_of(page), marks=marks[name_of(page) in ALWAYS]) for page in WITH_CODE]


@pytest.mark.parametrize("page", cases())
def test_blocks_run(page, given):
    for number, block in enumerate(blocks(page, "python"), 1):
        if any(word in block for word in ELSEWHERE):
            continue
        if "hf_mpq.export" in block and unmet("onnx"):
            pytest.skip(unmet("onnx"))
        if "MultiVectorEncoder" in block and not hasattr(sentence_transformers, "MultiVectorEncoder"):
            pytest.skip("late interaction came with sentence-transformers 6")
        if "sweep" in block and without("sweep", "this page"):
            pytest.skip(without("sweep", "this page"))
        for written, small in SMALL.items():
            block = block.replace(written, small)
        exec(compile(block, f"{name_of(page)}, block {number}", "exec"), given)
        for folder in WRITTEN.findall(block):
            assert [*Path(folder).glob("*.safetensors"), *Path(folder).glob("tokenizer.json")], folder
        if "hf_mpq.export" in block:
            assert Path("bert-onnx/model.onnx").exists()


@pytest.mark.full
@pytest.mark.parametrize("page", [page for page in sorted(METHODS.glob("*.md")) if blocks(page, "python")], ids=name_of)
def test_blocks_of_methods_run(page, given):
    slower = (
        '("out", stages={"supernet": {"strategy_options": {"target": 0.95}}}'  # where Python takes most of the time
    )
    for number, block in enumerate(blocks(page, "python"), 1):
        for written, small in {**SMALL, '("out"': slower if page.stem == "bigger-faster" else '("out"'}.items():
            block = block.replace(written, small)
        given["train"] = sentences(32, "masked" if "ForMaskedLM" in block else "sequence")
        exec(compile(block, f"{name_of(page)}, block {number}", "exec"), given)
        for folder in re.findall(r'save_(?:packed|float)\("([^"]+)"', block):
            assert [*Path(folder).glob("*.safetensors")], folder


def test_every_block_compiles():
    for page in [*WITH_CODE, *METHODS.glob("*.md")]:
        for number, block in enumerate(blocks(page, "python"), 1):
            compile(block, f"{name_of(page)}, block {number}", "exec")


def test_there_are_pages_with_code():
    assert len(WITH_CODE) >= 12 and sum(len(blocks(page, "python")) for page in WITH_CODE) >= 20
    assert set(ALWAYS) <= {name_of(page) for page in WITH_CODE}
    for word, file in ELSEWHERE.items():
        assert word in (Path(__file__).parents[1] / file).read_text()
