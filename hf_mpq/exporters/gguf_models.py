"""Encoders that llama.cpp runs: its architectures, with the names of their tensors and the sizes that they need."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from ..nn import family_of
from ..nn.families import Family, LayerNames
from ..nn.naming import body_name, body_of
from .bert_parts import KINDS, Head, first_position, head_of

Places = Mapping[str | tuple[str, ...], str]
"""Names of modules here to that of a tensor there, without `.weight`; several matrices lie one below the other."""
OTHER = "export it as 'onnx', 'openvino' or 'dense'"
_GELUS = ("gelu", "gelu_new", "gelu_pytorch_tanh")
"""llama.cpp computes the approximation by tanh for all of them."""


class Architecture(NamedTuple):
    """One of llama.cpp's.

    Attributes:
        name: there.
        tables: what is outside of the layers.
        layer: what is inside of one, for its family.
        activations: of the feed-forward part that it computes.
        sizes: writes what only it needs; arguments are the `gguf.GGUFWriter` and the encoder's config.
        lacks: what of an encoder's config it does not compute, in words; None where it computes all.
    """

    name: str
    tables: Places
    layer: Callable[[Family], Places]
    activations: tuple[str, ...]
    sizes: Callable[[Any, Any], None]
    lacks: Callable[[Any], str | None] = lambda config: None


def architecture_of(model: nn.Module) -> Architecture:
    """The architecture that runs a model.

    Raises:
        ValueError: where there is none for its family, its head, or what its config says.
    """
    config, family = body_of(model).config, family_of(model)
    found = _ARCHITECTURES.get(config.model_type)
    if found is None or family is None:
        raise ValueError(f"gguf is written for {', '.join(_ARCHITECTURES)}, this is {config.model_type!r}: {OTHER}")
    head = text_head(model)
    if body_name(model) and head is None:
        known = "only classifiers of texts" if config.model_type in _HEADED else "nor any other for this family"
        raise ValueError(
            f"gguf has no head for {type(model).__name__}, {known}: {OTHER}, or its encoder alone (hf_mpq.extract)"
        )
    used = getattr(config, family.activation)
    if used not in found.activations:
        kind = "gelu" if found.activations == _GELUS else " or ".join(found.activations)
        raise ValueError(f"llama.cpp runs this architecture with {kind} only, this model has {used!r}: {OTHER}")
    if missing := found.lacks(config):
        raise ValueError(f"llama.cpp's architecture {found.name!r} has no {missing}, as this model has: {OTHER}")
    if head and missing_in_head(model, head):
        raise ValueError(f"llama.cpp has {missing_in_head(model, head)}: {OTHER}")
    return found


def text_head(model: nn.Module) -> Head | None:
    """The layers of a classifier of texts that llama.cpp computes."""
    if body_of(model).config.model_type != "modernbert":
        return head_of(model)
    found = "ForSequenceClassification" in type(model).__name__
    return Head("head.dense", "classifier", body_of(model).config.classifier_activation) if found else None


def missing_in_head(model: nn.Module, head: Head) -> str | None:
    """What of a classifier llama.cpp computes otherwise, in words."""
    config = body_of(model).config
    wanted = ("gelu",) if config.model_type == "modernbert" else ("tanh",)
    if head.activation not in wanted:
        return f"{wanted[0]} in classifiers, this model has {head.activation}"
    if getattr(config, "classifier_bias", False):
        return "no bias in the first layer of classifiers, this model has one"
    return None


def places_of(model: nn.Module, architecture: Architecture) -> dict[tuple[str, ...], str]:
    """Names of modules, which need not all be there, to that of a tensor."""
    family = family_of(model)
    prefix = f"{body_name(model)}." if body_name(model) else ""
    found = {_full(prefix, here): there for here, there in architecture.tables.items()}
    for number, layer in enumerate(family.layer_prefixes(model)):
        inside = architecture.layer(family)
        found |= {_full(f"{prefix}{layer}.", here): f"blk.{number}.{there}" for here, there in inside.items()}
    if head := text_head(model):
        found |= {(head.first,): "cls", (head.last,): "cls.output"}
        if architecture.name == "modern-bert":
            found[("head.norm",)] = "cls.norm"
    return found


def _full(prefix: str, names: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{prefix}{name}" for name in ((names,) if isinstance(names, str) else names))


def _attention(names: LayerNames) -> Places:
    """Where queries, keys and values are matrices of their own."""
    return {names.query: "attn_q", names.key: "attn_k", names.value: "attn_v", names.output: "attn_output"}


def _gated(names: LayerNames) -> Places:
    return {names.up: "ffn_gate", names.gate: "ffn_up", names.down: "ffn_down"}


def _bert_layer(family: Family) -> Places:
    names = family.names
    return {
        **_attention(names),
        names.up: "ffn_up",
        names.down: "ffn_down",
        names.norms[0]: "attn_output_norm",
        names.norms[1]: "layer_output_norm",
    }


def _bert_sizes(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings - first_position(config))
    writer.add_layer_norm_eps(getattr(config, "layer_norm_eps", 1e-12))  # DistilBERT has no name for it
    writer.add_token_type_count(getattr(config, "type_vocab_size", 1))


def _modern_layer(family: Family) -> Places:
    names = family.names
    return {
        names.query: "attn_qkv",
        names.output: "attn_output",
        names.up: "ffn_up",
        names.down: "ffn_down",
        "attn_norm": "attn_norm",
        "mlp_norm": "ffn_norm",
    }


def _modern_sizes(writer: Any, config: Any) -> None:
    from gguf import PoolingType

    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_sliding_window(config.local_attention)
    writer.add_sliding_window_pattern(_period(config))
    writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
    writer.add_string("modern-bert.hidden_activation", config.hidden_activation)
    writer.add_uint32("modern-bert.classifier.pooling_type", PoolingType[config.classifier_pooling.upper()])


def _period(config: Any) -> int | None:
    """Every how many layers one has full attention, from the first one on; None where it is another pattern."""
    full = [kind == "full_attention" for kind in config.layer_types]
    period = full.index(True, 1) if True in full[1:] else len(full)
    return period if full == [number % period == 0 for number in range(len(full))] else None


def _modern_lacks(config: Any) -> str | None:
    if config.attention_bias or config.mlp_bias or config.norm_bias:
        return "biases"
    if _period(config) is None:
        return "such pattern of windows"
    return next(filter(None, map(_turned, config.rope_parameters.values())), None)


def _nomic_layer(family: Family) -> Places:
    names = family.names
    return {
        (names.query, names.key, names.value): "attn_qkv",
        names.output: "attn_output",
        **_gated(names),
        "post_attention_layernorm": "attn_output_norm",
        "post_mlp_layernorm": "layer_output_norm",
    }


def _nomic_sizes(writer: Any, config: Any) -> None:
    _bert_sizes(writer, config)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _euro_layer(family: Family) -> Places:
    names = family.names
    return {
        **_attention(names),
        **_gated(names),
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }


def _euro_sizes(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _rotary_lacks(config: Any) -> str | None:
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        return "biases"
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        return "heads of such a size"
    return _turned(config.rope_parameters)


def _turned(rope: Mapping) -> str | None:
    """How positions are turned, where that is not the plain way."""
    kind = rope.get("rope_type", "default")
    return None if kind == "default" else f"positions of the kind {kind!r}"


_TABLES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_MODERN_TABLES = {
    "embeddings.tok_embeddings": "token_embd",
    "embeddings.norm": "token_embd_norm",
    "final_norm": "output_norm",
}
_BERT = Architecture("bert", _TABLES, _bert_layer, _GELUS, _bert_sizes)
_MODERN = Architecture("modern-bert", _MODERN_TABLES, _modern_layer, ("gelu", "silu"), _modern_sizes, _modern_lacks)
_NOMIC = Architecture("nomic-bert", _TABLES, _nomic_layer, ("silu",), _nomic_sizes, _rotary_lacks)
_EURO = Architecture(
    "eurobert",
    {"embed_tokens": "token_embd", "norm": "output_norm"},
    _euro_layer,
    ("silu",),
    _euro_sizes,
    _rotary_lacks,
)
_ARCHITECTURES = {**dict.fromkeys(KINDS, _BERT), "modernbert": _MODERN, "nomic_bert": _NOMIC, "eurobert": _EURO}
"""By model type."""
_HEADED = (*KINDS, "modernbert")
"""Model types that have a classifier there."""
