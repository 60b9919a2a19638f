"""A bare installation loads, serves, makes and packs; what needs an extra is one error that names it."""

import ast
import json
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import hf_mpq
from hf_mpq._extras import EXTRAS, require
from tests.processes import run_python

PACKAGE = Path(hf_mpq.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
HARD = ["torch", "transformers", "numpy", "safetensors", "huggingface_hub", "xxhash", "filelock", "packaging", "regex"]
"""What loading and serving needs; regex is for patterns of rules, which it stops when they take too long."""
GUARDED = {"training": "train", "compression": "train", "tasks": "tasks", "report": "report", "hub": "report"}
GUARDED |= {"cli": "cli", "sweep": "train"}
"""Rooms that ask for their extra when they are imported."""
MISSING = sorted({name for names in EXTRAS.values() for name in names} - {"yaml"})  # huggingface_hub brings yaml

BARE = """
import json, sys
for name in sys.argv[1].split(): sys.modules[name] = None
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
import hf_mpq

def said(ask):
    try:
        ask()
    except ImportError as error:
        return str(error)

sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, vocab_size=50)
model = BertForSequenceClassification(BertConfig(**sizes)).eval()
ids = torch.arange(8)[None]
hf_mpq.pack(hf_mpq.quantize(model, hf_mpq.MPQConfig(bits=4))).save_pretrained("bare")
packed = AutoModelForSequenceClassification.from_pretrained("bare")
with torch.no_grad(), hf_mpq.use_backend("reference"):
    logits = packed(input_ids=ids).logits
hf_mpq.prepare(packed, backend="cpu-float")
found = {"difference": float((packed(input_ids=ids).logits - logits).abs().max().detach())}
found |= {name: said(lambda: getattr(hf_mpq, name)) for name in (*hf_mpq.__all__, *hf_mpq._ROOMS)}
import importlib
found["cli"] = said(lambda: importlib.import_module("hf_mpq.cli"))
found["peft"] = said(lambda: importlib.import_module("hf_mpq.plugin.lora"))
for format in ("onnx", "openvino", "compressed-tensors", "gguf", "ctranslate2"):
    found[format] = said(lambda: hf_mpq.export(packed, format, format))
print(json.dumps(found))
"""
NEEDS = {
    **dict.fromkeys(("MPQTrainer", "MPQTrainingArguments", "training", "compress", "compression"), "train"),
    **{
        "sweep": "train",
        "size_report": "report",
        "report": "report",
        "hub": "report",
        "tasks": "tasks",
        "cli": "cli",
        "peft": "peft",
    },
    **{
        "onnx": "onnx",
        "openvino": "openvino",
        "compressed-tensors": "interop",
        "gguf": "gguf",
        "ctranslate2": "ctranslate2",
    },
}


def test_without_extras_models_are_made_packed_loaded_and_served_and_the_rest_names_its_extra(tmp_path):
    done = run_python(["-c", BARE, " ".join(MISSING)], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("difference") < 1e-4
    assert {name: words for name, words in found.items() if words and name not in NEEDS} == {}
    for name, extra in NEEDS.items():
        assert f"pip install 'hf_mpq[{extra}]'" in (found[name] or ""), f"{name}: {found[name]}"


def test_hard_dependencies_are_those_of_serving():
    assert sorted(Requirement(line).name for line in PROJECT["dependencies"]) == sorted(HARD)


def brought_by(extra: str) -> set[str]:
    """Names of all distributions of an extra, and of the extras that it names."""
    needs = [Requirement(line) for line in PROJECT["optional-dependencies"][extra]]
    inner = [brought_by(name) for need in needs if need.name == "hf_mpq" for name in need.extras]
    return {need.name for need in needs if need.name != "hf_mpq"}.union(*inner)


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_is_asked_for(extra):
    known = packages_distributions()
    for module in EXTRAS[extra]:
        assert {name.lower() for name in known.get(module, [module])} & {name.lower() for name in brought_by(extra)}


APART = {"app", "executorch", "ray"}
"""Extras that are asked for by name: much to install, for nothing that models need."""


def test_all_and_dev_have_every_extra_but_those_apart():
    everything = set().union(*(brought_by(extra) for extra in EXTRAS.keys() - APART))
    assert everything <= brought_by("all") and brought_by("all") <= brought_by("dev")


def imported_at_once(path: Path) -> set[str]:
    """Names of modules that importing a file imports unasked: not within a function, TYPE_CHECKING or `require`."""
    absolute = [node for node in ast.parse(path.read_text()).body if not getattr(node, "level", 0)]
    names = {node.module for node in absolute if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in absolute if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in names}


FILES = [
    path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in {*GUARDED, "recipes"}
]


def test_rooms_of_serving_import_hard_dependencies_only():
    known = {*sys.stdlib_module_names, *HARD, "triton"}  # which comes with torch for GPUs
    assert {str(path): imported_at_once(path) - known for path in FILES if imported_at_once(path) - known} == {}


@pytest.mark.parametrize("room, extra", GUARDED.items())
def test_rooms_of_extras_ask_for_them_first(room, extra):
    assert f'require("{extra}", ' in (PACKAGE / room / "__init__.py").read_text()


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"^a picture needs matplotlib: pip install 'hf_mpq\[report\]'$"):
        require("report", "a picture")
