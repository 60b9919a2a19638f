"""Small layers with odd sizes and mixed precisions."""

import torch
from torch import nn

from hf_mpq.core import SubgroupLayout, WeightSpec
from hf_mpq.nn import MPQEmbedding, MPQLinear
from hf_mpq.weights import QUANTIZERS

LAYOUTS = {
    "uneven rows": SubgroupLayout((13, 11), 5),
    "channel": SubgroupLayout.of("channel", (13, 11)),
    "matrix": SubgroupLayout.of("matrix", (13, 11)),
    "columns": SubgroupLayout((13, 11), 4, axis=1),
}
MIXED = (0, 2, 4, 8)


def spec_of(layout: SubgroupLayout, candidates=MIXED, **fields) -> WeightSpec:
    """Sub-groups at the candidates in turn, the highest first."""
    bits = tuple(candidates[-1 - group % len(candidates)] for group in range(layout.count))
    if fields.get("quantizer") == "nested":
        fields |= {"nested": candidates, "gate": "switch"}
    return WeightSpec(layout, candidates, bits, **fields)


def ready(layer):
    """Everything set as after conversion, always from the same weights."""
    generator = torch.Generator().manual_seed(7)
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            parameter.data.normal_(std=0.3, generator=generator)
    layer.initialise()
    layer.calibrate()
    return layer


def within(candidates, quantizer: str = "symmetric") -> tuple[int, ...]:
    """Candidates that a quantizer is for."""
    return tuple(bits for bits in candidates if bits <= QUANTIZERS[quantizer].most_bits)


def linear_of(layout: SubgroupLayout, candidates=MIXED, bias=True, **fields) -> MPQLinear:
    """A calibrated `MPQLinear`, of the candidates that its quantizer is for."""
    candidates = within(candidates, fields.get("quantizer", "symmetric"))
    linear = nn.Linear(layout.shape[1], layout.shape[0], bias=bias)
    return ready(MPQLinear.from_linear(linear, spec_of(layout, candidates, bias=bias, **fields)))


def embedding_of(layout: SubgroupLayout, candidates=MIXED, padding_idx=None, **fields) -> MPQEmbedding:
    """A calibrated `MPQEmbedding`, of the candidates that its quantizer is for."""
    candidates = within(candidates, fields.get("quantizer", "symmetric"))
    embedding = nn.Embedding(*layout.shape, padding_idx=padding_idx)
    spec = spec_of(layout, candidates, bias=False, kind="embedding", **fields)
    return ready(MPQEmbedding.from_embedding(embedding, spec))
