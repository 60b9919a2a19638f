"""Layouts, and a quantizer with a weight to go with it."""

import torch
from torch import Tensor

from hf_mpq.core import SubgroupLayout, WeightSpec
from hf_mpq.weights import ENCODINGS, GATES, MASKS, QUANTIZERS, SOURCES, WeightProgram, WeightQuantizer

LAYOUTS = {
    "even rows": SubgroupLayout((12, 10), 4),
    "uneven rows": SubgroupLayout((11, 10), 4),
    "channel": SubgroupLayout.of("channel", (7, 10)),
    "matrix": SubgroupLayout.of("matrix", (7, 10)),
    "head": SubgroupLayout.of("head", (12, 10), heads=3),
    "columns": SubgroupLayout.of("columns:3", (6, 10)),
    "fused shards": SubgroupLayout.of(2, (15, 10), shards=3),
}
CHOOSING = [name for name in MASKS if not MASKS[name].measured]
"""Masks that choose what they drop, where the others take the zeros that are there."""
EVERY_BIT = tuple(range(1, 9))
MIXED = (0, 1, 2, 3, 4, 8)


def bits_of(name: str) -> tuple[int, ...]:
    """Every precision that a registered quantizer is for, ascending."""
    return EVERY_BIT[: QUANTIZERS[name].most_bits]


BITS_OF_EACH = [(name, bits) for name in QUANTIZERS for bits in bits_of(name)]


def mixed(name: str) -> tuple[int, ...]:
    """Candidates with 0, as far as the quantizer is for them."""
    return tuple(bits for bits in MIXED if bits <= QUANTIZERS[name].most_bits)


def going_with(gate: str) -> dict:
    """The quantizer and the source that a gate needs, as fields of a config; none where it chooses for any."""
    if GATES[gate].sets_grid:
        return {"quantizer": "learned-range"}
    if GATES[gate].sets_width:
        return {"bits": (0, 2)}
    if GATES[gate].selects_planes:
        source = next(name for name in SOURCES if SOURCES[name].has_planes)
        return {"source": source, "quantizer": "symmetric", "quantizer_options": {"two_bits": "ternary"}}
    return {}


def serves_prefixes(name: str) -> bool:
    """Whether one set of codes serves every candidate, so that only the highest is stored."""
    return name == "nested"


def candidates_of(name: str) -> tuple[int, ...]:
    """Candidates for a mixture: with 0 where the quantizer can mix stored precisions."""
    return (2, 4, 8) if serves_prefixes(name) else mixed(name)


def weight_of(layout: SubgroupLayout, seed: int = 0) -> Tensor:
    """A Gaussian weight whose lines differ in size and are not centred."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(layout.shape, generator=generator) * 0.2
    return weight * torch.logspace(-1, 1, layout.shape[0]).unsqueeze(1) + 0.02


def quantizer_of(name: str, layout: SubgroupLayout, candidates, weight: Tensor, **options) -> WeightQuantizer:
    """A registered quantizer calibrated on `weight`."""
    quantizer = QUANTIZERS[name](layout, tuple(candidates), **options)
    quantizer.calibrate(weight)
    return quantizer


def program_of(name: str, layout: SubgroupLayout, weight: Tensor, **fields) -> WeightProgram:
    """A calibrated program; fixed at `fields["bits"]` unless a gate is named."""
    fields.setdefault("candidates", mixed(name))
    program = WeightProgram(WeightSpec(layout, quantizer=name, **fields))
    program.initialise(weight)
    program.calibrate(weight)
    return program


def cycled(layout: SubgroupLayout, values) -> tuple[int, ...]:
    """One of `values` for each sub-group, in turn."""
    return tuple(values[group % len(values)] for group in range(layout.count))


@torch.no_grad()
def decoded(quantizer: WeightQuantizer, weight: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """The weight that is read back from what is stored, with the codes at `bits` and the stored floats."""
    nested = quantizer.candidates if serves_prefixes(quantizer.encoding) else ()
    stored = nested[-1] if nested else bits
    codes, floats = quantizer.encode(weight, stored)
    codes = codes >> (stored - bits)
    values = ENCODINGS[quantizer.encoding].decode(codes, quantizer.layout.expand(floats), bits, nested)
    return quantizer.layout.lines(values), codes, floats
