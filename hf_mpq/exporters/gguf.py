"""GGUF files, which llama.cpp and what is built on it run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..nn import PackedEmbedding, PackedLinear, dequantize_modules, family_of
from ..nn.integers import IntegerMatrix
from ..nn.naming import body_name, body_of
from .base import EXPORTERS, Exporter, ExportRequest, has_uneven_inputs
from .bert_parts import check_kind, first_position, head_of
from .configs import save_plain_config
from .gguf_blocks import SMALL, block_type, packed_rows
from .gguf_tokens import write_tokens

GELUS = ("gelu", "gelu_new", "gelu_pytorch_tanh")
"""llama.cpp computes the approximation by tanh for all of them."""
TABLES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}


@EXPORTERS.register("gguf")
class GgufExporter(Exporter):
    """`model.gguf` of llama.cpp's architecture `bert`: encoders without a head, and classifiers of texts.

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

        _refuse(model, request)
        places = _places(model)
        matrices = {
            name: _integers(module)
            for name, module in model.named_modules()
            if isinstance(module, PackedLinear | PackedEmbedding)
        }
        dequantize_modules(model)
        writer = gguf.GGUFWriter(folder / "model.gguf", "bert")
        _write_sizes(writer, model, request)
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


def _refuse(model: nn.Module, request: ExportRequest) -> None:
    """What llama.cpp has no architecture for."""
    check_kind(model, "gguf")
    other = "export it as 'onnx', 'openvino' or 'dense'"
    used = getattr(body_of(model).config, family_of(model).activation)
    if used not in GELUS:
        raise ValueError(f"llama.cpp runs this architecture with gelu only, this model has {used!r}: {other}")
    if (head := head_of(model)) and head.activation != "tanh":
        raise ValueError(f"llama.cpp has tanh in classifiers, this model has {head.activation}: {other}")
    if has_uneven_inputs(model) and request.activations != "float":
        raise ValueError(
            "llama.cpp rounds inputs to even levels, and those of this model have a learned basis: export it as 'onnx' "
            "or 'openvino', which keep its levels, or with activations='float'"
        )


def _places(model: nn.Module) -> dict[str, str]:
    """Names of modules here to those of tensors there, without `.weight`."""
    family = family_of(model)
    prefix = f"{body_name(model)}." if body_name(model) else ""
    names = family.names
    inside = {
        names.query: "attn_q",
        names.key: "attn_k",
        names.value: "attn_v",
        names.output: "attn_output",
        names.up: "ffn_up",
        names.down: "ffn_down",
        names.norms[0]: "attn_output_norm",
        names.norms[1]: "layer_output_norm",
    }
    found = {f"{prefix}{here}": there for here, there in TABLES.items()}
    for number, layer in enumerate(family.layer_prefixes(model)):
        found |= {f"{prefix}{layer}.{here}": f"blk.{number}.{there}" for here, there in inside.items()}
    if head := head_of(model):
        found |= {head.first: "cls", head.last: "cls.output"}
    return found


def _write_sizes(writer: Any, model: nn.Module, request: ExportRequest) -> None:
    from gguf import PoolingType

    body, family = body_of(model), family_of(model)
    config = body.config
    writer.add_name(type(model).__name__)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings - first_position(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(getattr(config, family.rows))
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(getattr(config, "layer_norm_eps", 1e-12))  # DistilBERT has no name for it
    writer.add_causal_attention(False)
    writer.add_token_type_count(getattr(config, "type_vocab_size", 1))
    if head_of(model):
        writer.add_pooling_type(PoolingType.RANK)
        labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
        writer.add_classifier_output_labels(labels)
    elif request.pooling is not None:
        writer.add_pooling_type(PoolingType[request.pooling.upper()])
    writer.add_quantization_version(2)


def _tensors(
    model: nn.Module, places: Mapping[str, str], matrices: Mapping[str, IntegerMatrix | None]
) -> Iterator[tuple[str, np.ndarray, str | None]]:
    """Name, values and type (None: that of the values) of every tensor."""
    first = first_position(body_of(model).config)
    modules = dict(model.named_modules())
    for here, there in places.items():
        if here not in modules:
            continue  # DistilBERT has no types of tokens
        start = first if there == "position_embd" else 0
        weight = modules[here].weight.detach().float()[start:]
        if here not in matrices or there == "token_types":  # whose first row is read as float
            yield f"{there}.weight", weight.numpy(), None
        else:
            yield f"{there}.weight", *_matrix(weight, matrices[here], start)
        bias = getattr(modules[here], "bias", None)
        if bias is not None:
            yield f"{there}.bias", bias.detach().float().numpy(), None


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
