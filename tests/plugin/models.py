"""Small quantized models with every precision in them, in both storages."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import hf_mpq
from hf_mpq import Assignment, MPQConfig
from hf_mpq.core import MatrixAssignment
from hf_mpq.format import digests_to_metadata
from tests.tiny import HEADS, tiny_model

MIXED = (8, 2, 3, 4, 0)


def mixed_assignment(model, config: MPQConfig, cycle: tuple[int, ...] = MIXED) -> Assignment:
    """Precisions in turn in every encoder matrix, 8 bits elsewhere."""
    matrices = {}
    for number, (name, spec) in enumerate(config.resolve(model).weights.items()):
        groups = range(spec.layout.count)
        bits = (cycle[(group + number) % len(cycle)] if spec.role == "encoder" else 8 for group in groups)
        matrices[name] = MatrixAssignment(tuple(bits))
    return Assignment(matrices)


def mixed_model(family: str = "bert", head: str = "sequence", cycle: tuple[int, ...] = MIXED, **options):
    """A trainable model with a mixed assignment of ten sub-groups per matrix."""
    model = tiny_model(family, head)
    config = MPQConfig(**{"groups": 10, **options})
    config.assignment = mixed_assignment(model, config, cycle).to_dict()
    return hf_mpq.quantize(model, config)


def stored_model(storage: str, *args, **options):
    """`mixed_model` in either storage."""
    model = mixed_model(*args, **options)
    return hf_mpq.pack(model) if storage == "packed" else model


def reload(folder: Path, head: str = "sequence", **options):
    return HEADS[head].from_pretrained(folder, **options).eval()


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def read_metadata(folder: Path) -> dict[str, str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return file.metadata()


def write_tensors(folder: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Rewrite the weights, with the metadata that was there unless another is given."""
    metadata = read_metadata(folder) if metadata is None else metadata
    save_file(tensors, folder / "model.safetensors", metadata)


def signed_anew(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """The metadata of a file with the digests of other tensors: what only someone who means it writes."""
    return read_metadata(folder) | digests_to_metadata(tensors)


def as_version_1(folder: Path) -> None:
    """Make a folder what hf_mpq wrote before the format had digests of floats and of the config."""
    tensors, config = read_tensors(folder), read_config(folder)
    octets = {name.removeprefix("bert."): v for name, v in tensors.items() if v.dtype == torch.uint8}
    packed = config["quantization_config"]["storage"] == "packed"
    config["quantization_config"]["format_version"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    write_tensors(folder, tensors, {"format": "pt", **(digests_to_metadata(octets) if packed else {})})


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def close(first, second, tolerance: float = 1e-5) -> None:
    assert len(first) == len(second) > 0
    for a, b in zip(first, second):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def differ(first, second, least: float = 1e-3) -> bool:
    """Whether some output differs by more than `least`."""
    return any((a - b).abs().max() > least for a, b in zip(first, second, strict=True))
