"""One trainable layer to its packed twin, and back to a plain float layer."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..core import MaskStorage, MatrixStorage, to_bytes
from ..format import mask_encoding, pack_flags, pack_planes
from ..weights import PrecisionCodes
from .affine import ChannelAffine
from .embedding import MPQEmbedding, ScaledEmbedding
from .linear import MPQLinear
from .matrix import QuantizedMatrix
from .norm import MPQLayerNorm
from .packed import PackedEmbedding, PackedLayerNorm, PackedLinear, PackedMatrix


@torch.no_grad()
def pack_matrix(layer: QuantizedMatrix) -> PackedMatrix:
    """The packed twin of a layer whose precision is decided."""
    stored, dtype, device = layer.storage(), layer.weight.dtype, layer.weight.device
    if isinstance(layer, MPQEmbedding):
        packed = PackedEmbedding(stored, dtype, device, layer.padding_idx, layer.scalar_embed_scale)
    else:
        frozen = layer.input_quantizer and layer.input_quantizer.frozen()
        packed = PackedLinear(stored, dtype, device, frozen)
        packed.output_quantizer = layer.output_quantizer and layer.output_quantizer.frozen()
    for name, octets in _contents(layer, stored).items():
        packed.get_buffer(name).copy_(octets)
    packed.keep_of = layer.spec.keep_of
    return packed.train(layer.training)


def _contents(layer: QuantizedMatrix, stored: MatrixStorage) -> dict[str, Tensor]:
    """The bytes of every buffer that `stored` names."""
    encoded = layer.program.encode(layer.weight.float())
    if stored.mask is None:
        encoded = {bits: replace(content, keep=None) for bits, content in encoded.items()}
    parts = {
        "codes": [_code_bytes(content, bits) for bits, content in encoded.items()],
        "scales": [to_bytes(content.floats, getattr(torch, stored.scale_dtype)) for content in encoded.values()],
        "mask": [_mask_bytes(content, stored.mask) for content in encoded.values() if stored.mask is not None],
        "map": [_map_bytes(layer, stored)],
        "live_columns": [pack_flags(layer.program.live_columns)],
    }
    if layer.bias is not None:
        kept = layer.bias.detach()[layer.live_rows]
        parts["bias_values"] = [to_bytes(kept, getattr(torch, stored.float_dtype))]
        parts["live_rows"] = [pack_flags(layer.live_rows)]
    for name in stored.affine:
        live = layer.channel_values(name)[_stored_channels(layer)]
        parts[f"input_{name}_values"] = [to_bytes(live, getattr(torch, stored.float_dtype))]
    if stored.rank:
        rows, columns = layer.factors()
        kept = {"low_rank_rows": rows[layer.kept_rows()], "low_rank_columns": columns[:, _stored_channels(layer)]}
        parts |= {name: [to_bytes(values, getattr(torch, stored.float_dtype))] for name, values in kept.items()}
    return {name: torch.cat(parts[name]) for name in stored.buffers()}


def _stored_channels(layer: QuantizedMatrix) -> Tensor:
    """Input channels that are stored, `(in,)` bool: column blocks store dead ones too."""
    live = layer.program.live_columns
    return live if layer.spec.layout.axis == 0 else torch.ones_like(live)


def _code_bytes(content: PrecisionCodes, bits: int) -> Tensor:
    codes = content.codes if content.keep is None else content.codes[content.keep].unsqueeze(0)
    return pack_planes(codes, bits).flatten()


def _mask_bytes(content: PrecisionCodes, mask: MaskStorage) -> Tensor:
    octets = mask_encoding(mask.encoding).encode(content.keep)
    assert octets is not None  # it was chosen for what this mask keeps
    return octets


def _map_bytes(layer: QuantizedMatrix, stored: MatrixStorage) -> Tensor:
    bits = layer.program.gate.derive()
    precisions = torch.tensor(stored.precisions, device=bits.device)
    index = torch.searchsorted(precisions, bits).to(torch.uint8)
    return pack_planes(index.unsqueeze(0), stored.map_bits).flatten()


@torch.no_grad()
def pack_norm(norm: MPQLayerNorm) -> PackedLayerNorm:
    """The packed twin of a normalisation."""
    packed = PackedLayerNorm(
        norm.normalized_shape[0],
        norm.eps,
        norm.bias is not None,
        norm.float_dtype,
        norm.precisions,
        norm.weight.dtype,
        norm.weight.device,
    )
    pairs = [norm.affine(position) for position in range(max(len(norm.precisions), 1))]
    dtype = getattr(torch, norm.float_dtype)
    packed.weight_values.copy_(to_bytes(torch.stack([weight for weight, _ in pairs]), dtype))
    if norm.bias is not None:
        packed.bias_values.copy_(to_bytes(torch.stack([bias for _, bias in pairs]), dtype))
    packed.position = norm.position
    return packed.train(norm.training)


@torch.no_grad()
def plain_layer(layer: nn.Module, masters: bool = False, masked: bool = False) -> nn.Module:
    """A plain `nn.Linear`, `nn.Embedding` or `nn.LayerNorm` with the values that `layer` uses in forward; what is done
    to each channel of its input goes back into weight and bias.

    Args:
        masters: of a trainable layer, take the float parameters behind the quantized values.
        masked: of the masters, whether what is held at zero is zero.
    """
    weight, bias = _masters(layer, masked) if masters else _used(layer)
    if isinstance(layer, ChannelAffine):
        weight, bias = layer.without_affine(weight, bias)
    if isinstance(layer, MPQLinear) and not masters and layer.read_columns() is not None:
        weight = weight * layer.read_columns()
    if isinstance(layer, MPQLayerNorm | PackedLayerNorm):
        plain = nn.LayerNorm(layer.normalized_shape, layer.eps, True, bias is not None, device="meta")
    elif isinstance(layer, MPQEmbedding | PackedEmbedding):
        kind = nn.Embedding if layer.scalar_embed_scale == 1 else ScaledEmbedding
        plain = kind(*weight.shape, layer.padding_idx, device="meta")
        if layer.scalar_embed_scale != 1:
            plain.scalar_embed_scale = layer.scalar_embed_scale
    else:
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    plain.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().clone())
    return plain.train(layer.training)


def _used(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as forward uses them."""
    if isinstance(layer, MPQLayerNorm):
        return layer.affine(layer.position)
    if isinstance(layer, QuantizedMatrix):
        return layer.quantized_weight(), layer.stored_bias()
    return layer.weight, layer.bias


def _masters(layer: nn.Module, masked: bool) -> tuple[Tensor, Tensor | None]:
    """Weight and bias before any rounding, and any mask unless `masked`."""
    weight = layer.weight
    if isinstance(layer, QuantizedMatrix):  # whose float weight is float32 whatever the type of the model
        weight = layer.float_weight(masked).to(weight.dtype)
    return weight, layer.bias
