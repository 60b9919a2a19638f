"""Quantized models with every precision in them, and correlated inputs."""

import copy

import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import Assignment, MatrixAssignment
from hf_mpq.nn import MPQLinear
from hf_mpq.nn.walk import matrices
from tests.tiny import VOCABULARY

EVERY_BITS = (0, 1, 2, 3, 4, 8)
QUICK = {"autoround": {"iterations": 3}, "lkd": {"steps": 2, "batch_size": 4}}
"""Options that make a rounder quick enough for a contract."""


_MADE: dict = {}


def batches(count: int = 3, rows: int = 4, seed: int = 5) -> list[dict]:
    """Batches of different lengths, padded in their last row."""
    generator, found = torch.Generator().manual_seed(seed), []
    for number in range(count):
        ids = torch.randint(3, VOCABULARY, (rows, 9 + number), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, -3:] = 0
        found.append({"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask})
    return found


def quantized(reference, **options):
    """A quantized copy."""
    return hf_mpq.quantize(copy.deepcopy(reference), MPQConfig(**options))


def mixed(reference, prune: str = "key", **options):
    """A quantized copy with all precisions side by side; the first matrix named `prune` is pruned altogether."""
    key = (reference.config.to_json_string(), type(reference), reference.dtype, prune, str(options))
    if key not in _MADE:
        _MADE[key] = _mixed(reference, prune, **options)
    return copy.deepcopy(_MADE[key])


def _mixed(reference, prune: str, **options):
    config = MPQConfig(**{"bits": EVERY_BITS, "groups": 7, "attention_bits": 8, **options})
    found, pruned = {}, False
    for name, spec in config.resolve(reference).weights.items():
        bits = tuple(spec.candidates[(group + len(name)) % len(spec.candidates)] for group in range(spec.layout.count))
        if prune in name and spec.role == "encoder" and not pruned:
            bits, pruned = (0,) * len(bits), True
        found[name] = MatrixAssignment(bits)
    config.assignment = Assignment(found).to_dict()
    return hf_mpq.quantize(copy.deepcopy(reference), config)


def weights_of(model) -> dict[str, torch.Tensor]:
    """The weight that each linear layer uses in forward."""
    return {name: layer.quantized_weight().detach().clone() for name, layer in matrices(model, MPQLinear)}


def state_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@torch.no_grad()
def output_error(model, reference, given: list[dict]) -> float:
    """Mean squared error of the first output."""
    errors = [(model(**batch)[0] - reference(**batch)[0]).square().mean() for batch in given]
    return float(sum(errors) / len(errors))
