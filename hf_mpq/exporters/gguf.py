"""GGUF files, which llama.cpp and what is built on it run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..nn import PackedEmbedding, PackedLinear, dequantize_modules, family_of
from ..nn.integers import IntegerMatrix
from ..nn.naming import body_of
from .base import EXPORTERS, Exporter, ExportRequest, has_uneven_inputs
from .bert_parts import first_position
from .configs import save_plain_config
from .gguf_blocks import SMALL, block_type, packed_rows
from .gguf_models import Architecture, architecture_of, places_of, text_head
from .gguf_tokens import write_tokens


@EXPORTERS.register("gguf")
class GgufExporter(Exporter):
    """`model.gguf` of one of llama.cpp's architectures `bert`, `modern-bert`, `nomic-bert` and `eurobert`: encoders
    without a head, and of the first two classifiers of texts.

    Each matrix takes the narrowest block type that holds all its levels, from 2.06 bits (ternary) to 8.5, with the row
    scales repeated in its blocks as float16; matrices without such a form are rounded to 8 bits in blocks of 32, and
    those whose rows are no multiple of 32 are float16. Whatever activations were trained with, llama.cpp rounds the
    inputs of matrices in integers to 8 bits in blocks of 32 or 256. Pruned rows and heads stay, as zeros.
    """

    packages = ("gguf",)
    extra = "gguf"
    standard = True
    pools = True

    @classmethod
    def write(cls, model: nn.Module, folder: Path, request: ExportRequest) -> None:
        import gguf

        architecture = _architecture(model, request)
        places = places_of(model, architecture)
        matrices = {
            name: _integers(module)
            for name, module in model.named_modules()
            if isinstance(module, PackedLinear | PackedEmbedding)
        }
        dequantize_modules(model)
        writer = gguf.GGUFWriter(folder / "model.gguf", architecture.name)
        _write_sizes(writer, architecture, model, request)
        write_tokens(writer, request.tokenizer, body_of(model).config.vocab_size)
        for name, values, kind in _tensors(model, places, matrices):
            writer.add_tensor(name, values, raw_dtype=None if kind is None else gguf.GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        save_plain_config(model, folder)


def _integers(module: PackedLinear | PackedEmbedding) -> IntegerMatrix | None:
    """None where the file's weight is no row of levels times a scale."""
    if module.stored.affine:
        return None
    found = IntegerMatrix.of(module)
    return found if found.exact and bool(torch.isfinite(found.scale.half()).all()) else None


def _architecture(model: nn.Module, request: ExportRequest) -> Architecture:
    found = architecture_of(model)
    if has_uneven_inputs(model) and request.activations != "float":
        raise ValueError(
            "llama.cpp rounds inputs to even levels, and those of this model have a learned basis: export it as 'onnx' "
            "or 'openvino', which keep its levels, or with activations='float'"
        )
    return found


def _write_sizes(writer: Any, architecture: Architecture, model: nn.Module, request: ExportRequest) -> None:
    from gguf import PoolingType

    body, family = body_of(model), family_of(model)
    config = body.config
    writer.add_name(type(model).__name__)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(getattr(config, family.rows))
    writer.add_head_count(config.num_attention_heads)
    writer.add_causal_attention(False)
    architecture.sizes(writer, config)
    if text_head(model):
        writer.add_pooling_type(PoolingType.RANK)
        labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
        writer.add_classifier_output_labels(labels)
    elif request.pooling is not None:
        writer.add_pooling_type(PoolingType[request.pooling.upper()])
    writer.add_quantization_version(2)


def _tensors(
    model: nn.Module, places: Mapping[tuple[str, ...], str], matrices: Mapping[str, IntegerMatrix | None]
) -> Iterator[tuple[str, np.ndarray, str | None]]:
    """Name, values and type (None: that of the values) of every tensor."""
    first = first_position(body_of(model).config)
    modules = dict(model.named_modules())
    for here, there in places.items():
        found = [modules[name] for name in here if getattr(modules.get(name), "weight", None) is not None]
        if not found:
            continue  # DistilBERT has no types of tokens, ModernBERT no norm in front of its first layer
        start = first if there == "position_embd" else 0
        weight = torch.cat([one.weight.detach().float() for one in found])[start:]
        if here[0] not in matrices or there == "token_types":  # whose first row is read as float
            yield f"{there}.weight", weight.numpy(), None
        else:
            yield f"{there}.weight", *_matrix(weight, _stacked([matrices[name] for name in here]), start)
        if getattr(found[0], "bias", None) is not None:
            yield f"{there}.bias", torch.cat([one.bias.detach().float() for one in found]).numpy(), None


def _stacked(matrices: list[IntegerMatrix | None]) -> IntegerMatrix | None:
    whole = all(one is not None for one in matrices)
    return matrices[0] if len(matrices) == 1 else IntegerMatrix.stacked(matrices) if whole else None


def _matrix(weight: Tensor, matrix: IntegerMatrix | None, start: int) -> tuple[np.ndarray, str | None]:
    """Values and type of a matrix; its integers are None where it has none, and their rows count from `start`."""
    import gguf

    if matrix is not None:
        levels, scale = matrix.levels[start:].numpy(), matrix.scale[start:].numpy()
        offset = None if matrix.offset is None else matrix.offset[start:].numpy()
        kind = block_type(levels, offset)
        if kind is not None:
            return packed_rows(kind, levels, scale, offset), kind.name
    if weight.shape[1] % SMALL == 0:
        return gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0), "Q8_0"
    return weight.numpy().astype(np.float16), None
