"""Folders of CTranslate2."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor, nn

from ..nn import PackedEmbedding, PackedLinear, dequantize_modules, family_of
from ..nn.integers import IntegerMatrix
from ..nn.naming import body_name, body_of
from .base import EXPORTERS, Exporter, ExportRequest, has_uneven_inputs
from .bert_parts import check_kind, first_position, head_of

FUNCTIONS = {"gelu": "GELU", "gelu_new": "GELUTanh", "gelu_pytorch_tanh": "GELUTanh", "relu": "RELU", "silu": "SWISH"}
"""Of the feed-forward blocks, here and there."""


@EXPORTERS.register("ctranslate2")
class CTranslate2Exporter(Exporter):
    """`model.bin`, its `config.json` and vocabulary: an encoder with int8 matrices and tables.

    Rows with offsets, scales per column or a low-rank correction are rounded to 8 bits. CTranslate2 rounds inputs to 8
    bits with a range for each token, whatever was trained. It has no classifier: the first layer of one is its pooler,
    and the last one, float32, lies beside it in `classifier.safetensors` for who calls it. Pruned rows stay, as zeros.
    """

    packages = ("ctranslate2",)
    extra = "ctranslate2"
    standard = True

    @classmethod
    def write(cls, model: nn.Module, folder: Path, request: ExportRequest) -> None:
        check_kind(model, "ctranslate2")
        used = getattr(body_of(model).config, family_of(model).activation)
        if used not in FUNCTIONS:
            raise ValueError(f"CTranslate2 has no activation {used!r}: export it as 'onnx', 'openvino' or 'dense'")
        if request.activations != "float" and has_uneven_inputs(model):
            raise ValueError(
                "CTranslate2 gives each token a range of even levels, and the inputs of this model have a learned "
                "basis: export it as 'onnx' or 'openvino', which keep its levels, or with activations='float'"
            )
        matrices = {
            name: IntegerMatrix.of(module, offsets=False)
            for name, module in model.named_modules()
            if isinstance(module, PackedEmbedding) or (isinstance(module, PackedLinear) and not module.stored.affine)
        }
        dequantize_modules(model)
        spec = _Spec(model, matrices).made()
        spec.register_vocabulary(_words(request.tokenizer, body_of(model).config.vocab_size))
        spec.config.layer_norm_epsilon = getattr(body_of(model).config, "layer_norm_eps", 1e-12)
        if (token := getattr(request.tokenizer, "unk_token", None)) is not None:
            spec.config.unk_token = token
        spec.validate()
        spec.optimize(quantization=None)  # what is int8 is so already
        spec.save(str(folder))
        if head := head_of(model):
            last = model.get_submodule(head.last)
            tensors = {"weight": last.weight.detach().float(), "bias": last.bias.detach().float()}
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "classifier.safetensors"
            )


def _words(tokenizer: Any, rows: int) -> list[str]:
    """Tokens by their number."""
    words = [f"<extra_id_{number}>" for number in range(rows)]
    for word, number in ({} if tokenizer is None else tokenizer.get_vocab()).items():
        if number >= rows:
            raise ValueError(
                f"the tokenizer has a token {number}, the word table {rows} rows: give the model's own one"
            )
        words[number] = word
    return words


class _Spec:
    """Fills the specification of an encoder."""

    def __init__(self, model: nn.Module, matrices: dict[str, IntegerMatrix]):
        self.model, self.matrices, self.family = model, matrices, family_of(model)
        self.prefix = f"{body_name(model)}." if body_name(model) else ""
        self.modules = dict(model.named_modules())

    def made(self) -> Any:
        from ctranslate2.specs import common_spec, transformer_spec

        config, names = body_of(self.model).config, self.family.names
        types = f"{self.prefix}embeddings.token_type_embeddings" in self.modules
        layers = self.family.layer_prefixes(self.model)
        encoder = transformer_spec.TransformerEncoderSpec(
            len(layers),
            config.num_attention_heads,
            pre_norm=False,
            activation=common_spec.Activation[FUNCTIONS[getattr(config, self.family.activation)]],
            layernorm_embedding=True,
            num_source_embeddings=1 + types,
            embeddings_merge=common_spec.EmbeddingsMerge.ADD,
        )
        head = head_of(self.model)
        pooler = head.first if head else "pooler.dense" if "pooler.dense" in self.modules else None
        activation = common_spec.Activation.RELU if head and head.activation == "relu" else common_spec.Activation.Tanh
        spec = transformer_spec.TransformerEncoderModelSpec(encoder, pooler is not None, activation)
        encoder.scale_embeddings = False
        tables = ("word_embeddings", "token_type_embeddings")
        for there, here in zip(encoder.embeddings, tables):
            self._matrix(there, f"{self.prefix}embeddings.{here}")
        positions = self.modules[f"{self.prefix}embeddings.position_embeddings"].weight
        encoder.position_encodings.encodings = _floats(positions[first_position(config) :])
        self._norm(encoder.layernorm_embedding, f"{self.prefix}embeddings.LayerNorm")
        for there, layer in zip(encoder.layer, layers):
            here = f"{self.prefix}{layer}."
            attention = there.self_attention
            self._matrix(attention.linear[0], *(here + name for name in (names.query, names.key, names.value)))
            self._matrix(attention.linear[1], here + names.output)
            self._norm(attention.layer_norm, here + names.norms[0])
            self._matrix(there.ffn.linear_0, here + names.up)
            self._matrix(there.ffn.linear_1, here + names.down)
            self._norm(there.ffn.layer_norm, here + names.norms[1])
        if pooler is not None:
            self._matrix(spec.pooler_dense, pooler)
        return spec

    def _matrix(self, there: Any, *names: str) -> None:
        """One or several matrices, one below the other: int8 with what a row was multiplied with, or float."""
        modules = [self.modules[name] for name in names]
        if all(name in self.matrices for name in names):
            found = [self.matrices[name] for name in names]
            there.weight = np.concatenate([one.levels.numpy() for one in found])
            there.weight_scale = np.concatenate([(1 / one.scale).numpy() for one in found])
        else:
            there.weight = np.concatenate([_floats(one.weight) for one in modules])
        biases = [getattr(one, "bias", None) for one in modules]
        if biases[0] is not None:
            there.bias = np.concatenate([_floats(one) for one in biases])

    def _norm(self, there: Any, name: str) -> None:
        there.gamma, there.beta = _floats(self.modules[name].weight), _floats(self.modules[name].bias)


def _floats(values: Tensor) -> np.ndarray:
    return values.detach().float().numpy().copy()
