"""Precision spaces made from plain specs, without any model."""

from random import Random

import pytest
import torch

from hf_mpq.core import (
    ActivationSpec,
    Assignment,
    AttentionSpec,
    Link,
    MatrixAssignment,
    PrecisionSpace,
    RowBlock,
    SubgroupLayout,
    Usage,
    WeightSpec,
)

BITS = (0, 2, 3, 4, 8)


def bert_layer(index, width, inner, groups, **fields):
    """Specs and links of one BERT layer."""
    at = f"encoder.layer.{index}."
    attention = [f"{at}attention.self.{part}" for part in ("query", "key", "value")]
    shapes = dict.fromkeys([*attention, f"{at}attention.output.dense"], (width, width))
    shapes |= {f"{at}intermediate.dense": (inner, width), f"{at}output.dense": (width, inner)}
    specs = {name: WeightSpec(SubgroupLayout(shape, groups), **fields) for name, shape in shapes.items()}
    query, key, value = (RowBlock(name, 0, width) for name in attention)
    heads = max(1, width // 64)
    links = (
        Link("scores", (query, key), heads=heads),
        Link("value", (value,), f"{at}attention.output.dense", heads=heads),
        Link("pointwise", (RowBlock(f"{at}intermediate.dense", 0, inner),), f"{at}output.dense", "gelu"),
    )
    return specs, links


def bert_space(layers=2, width=64, inner=128, groups=8, activation_bits=None, links=True, **fields):
    """The encoder of a BERT model; BERT-base is `layers=12, width=768, inner=3072`."""
    fields = {"candidates": BITS, "floats": dict.fromkeys(range(1, 9), 1)} | fields
    attention = None
    if activation_bits is not None:
        spec = ActivationSpec(bits=activation_bits)
        fields["activation"], attention = spec, AttentionSpec(spec, spec)
    parts = [bert_layer(index, width, inner, groups, **fields) for index in range(layers)]
    weights = {name: spec for specs, _ in parts for name, spec in specs.items()}
    norms = 4 * width * layers
    return PrecisionSpace(
        weights,
        links=tuple(link for _, ls in parts for link in ls) if links else (),
        attention=attention,
        norm_parameters=norms,
        encoder_norm_parameters=norms,
    )


def uniform_assignment(space, bits):
    return Assignment({name: MatrixAssignment((bits,) * spec.layout.count) for name, spec in space.weights.items()})


def random_assignment(space, seed=0):
    random = Random(seed)
    draw = {name: random.choices(spec.candidates, k=spec.layout.count) for name, spec in space.weights.items()}
    return Assignment(
        {name: MatrixAssignment(tuple(bits), nested=space.weights[name].nested) for name, bits in draw.items()}
    )


def one_hot_usages(space, assignment, with_probabilities=True):
    """The usages of gates that are certain of `assignment`, in float64."""
    usages = {}
    for name, matrix in assignment.matrices.items():
        bits = torch.tensor(matrix.bits, dtype=torch.float64)
        probabilities = (bits.unsqueeze(1) == torch.tensor(space.weights[name].candidates)).double()
        usages[name] = Usage(bits, (bits > 0).double(), probabilities if with_probabilities else None)
    return usages


@pytest.fixture
def make_space():
    return bert_space


@pytest.fixture(scope="session")
def bert_base():
    return bert_space(12, 768, 3072, 128)


@pytest.fixture
def uniform():
    return uniform_assignment


@pytest.fixture
def random():
    return random_assignment


@pytest.fixture
def one_hot():
    return one_hot_usages
