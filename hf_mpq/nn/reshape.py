"""Smaller models out of larger ones: layers left out, and of every other dimension the first so many."""

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.initialization import no_init_weights

from ..core import ModelShape
from .construction import takes_config_alone
from .families import Family, family_for, family_of
from .naming import body_of, relative_name

_FOLLOWING = ("embedding_size", "pooler_hidden_size")
"""Config attributes that follow the hidden size where they equal it."""


@dataclass(frozen=True)
class Sizes:
    """Of an encoder whose layers are alike, as its config says them.

    Attributes:
        layers: that a forward pass runs.
        hidden, heads, rows: hidden size, attention heads and feed-forward rows of each.
    """

    layers: int
    hidden: int
    heads: int
    rows: int

    @property
    def head_size(self) -> int:
        """Dimensions of one head."""
        return self.hidden // self.heads


def known_family(model: nn.Module) -> Family:
    """The family of a model whose shape can be changed; raises ValueError for any other model."""
    family = family_of(model)
    if family is None:
        raise ValueError(
            f"the shape of {type(model).__name__} cannot be changed: its family is not known; families are "
            "described in hf_mpq/nn/families/table.py"
        )
    if not takes_config_alone(type(model)):
        raise ValueError(
            f"the shape of {type(model).__name__} cannot be changed: it cannot be made from its config alone; give its "
            "other arguments defaults, or reduce the model inside"
        )
    if type(model).config_class is not type(model.config):
        raise ValueError(f"the shape of {type(model).__name__} cannot be changed: its config is not of one encoder")
    if not family.resizable:
        raise ValueError(
            f"the shape of {body_of(model).config.model_type!r} models cannot be changed: their tensors are not made "
            "of hidden size, heads and rows alone; prune sub-groups of them instead (bits with 0 among them)"
        )
    if family.shared_layers and getattr(model.config, family.shared_layers) > 1:
        raise ValueError("the shape of a model with several groups of shared layers cannot be changed")
    return family


def sizes_of(model: nn.Module) -> Sizes:
    """What the config of a model of a known family says."""
    config, family = body_of(model).config, known_family(model)
    return Sizes(config.num_hidden_layers, config.hidden_size, config.num_attention_heads, getattr(config, family.rows))


def shape_of(model: nn.Module) -> ModelShape:
    """The whole shape of a model, every dimension named."""
    sizes = sizes_of(model)
    return ModelShape(
        tuple(range(sizes.layers)), sizes.hidden, (sizes.heads,) * sizes.layers, (sizes.rows,) * sizes.layers
    )


def sizes_in(model: nn.Module, shape: ModelShape) -> Sizes:
    """What a shape, which may leave dimensions out, makes of a model.

    Raises:
        ValueError: when a dimension is larger than the model's, layers differ in heads or rows, which no plain config
            says, or heads do not divide the hidden size.
    """
    whole = sizes_of(model)
    layers = whole.layers if shape.layers is None else len(shape.layers)
    if shape.layers is not None and shape.layers[-1] >= whole.layers:
        raise ValueError(f"the model has {whole.layers} layers, 0 to {whole.layers - 1}; got {shape.layers}")
    hidden = shape.hidden or whole.hidden
    rows = _one("rows", shape.rows, layers) or whole.rows
    heads = _one("heads", shape.heads, layers) or _heads(hidden, whole)
    found = Sizes(layers, hidden, heads, rows)
    for name in ("hidden", "heads", "rows"):
        if getattr(found, name) > getattr(whole, name):
            raise ValueError(
                f"the model has {name} {getattr(whole, name)}, and cannot be cut to {getattr(found, name)}"
            )
    if hidden % heads or found.head_size > whole.head_size:
        raise ValueError(
            f"hidden {hidden} with {heads} heads: the hidden size must be a multiple of the heads, and their size at "
            f"most {whole.head_size}, the model's"
        )
    if known_family(model).rotary and found.head_size % 2:
        raise ValueError(f"hidden {hidden} with {heads} heads: the size of rotated heads must be even")
    return found


def _one(name: str, values: tuple[int, ...] | None, layers: int) -> int | None:
    if values is None:
        return None
    if len(values) != layers:
        raise ValueError(f"{name} of a shape must have one entry for each of the {layers} layers, got {len(values)}")
    if len(set(values)) > 1:
        raise ValueError(f"a plain config has the same {name} in all layers; got {sorted(set(values))}")
    return values[0]


def _heads(hidden: int, whole: Sizes) -> int:
    """So many that they keep their size."""
    if hidden % whole.head_size:
        step = whole.head_size
        raise ValueError(
            f"hidden {hidden} is no multiple of {step}, the size of a head: take {hidden // step * step or step}, or "
            "say how many heads there are"
        )
    return hidden // whole.head_size


def resized_config(model: nn.Module, shape: ModelShape) -> PretrainedConfig:
    """The config of a float model of this shape, which plain transformers reads."""
    return config_of_sizes(model, sizes_in(model, shape), shape.layers)


def config_of_sizes(model: nn.Module, sizes: Sizes, layers: Iterable[int] | None = None) -> PretrainedConfig:
    """The config of a float model of these sizes, smaller or larger; `layers` are those kept, of a smaller one."""
    config, family, whole = copy.deepcopy(model.config), known_family(model), sizes_of(model)
    config.__dict__.pop("quantization_config", None)
    for name in _FOLLOWING:
        if getattr(config, name, None) == whole.hidden:
            setattr(config, name, sizes.hidden)
    config.num_hidden_layers, config.hidden_size = sizes.layers, sizes.hidden
    config.num_attention_heads = sizes.heads
    setattr(config, family.rows, sizes.rows)
    kinds: Any = getattr(config, "layer_types", None)
    if kinds is not None and layers is not None:
        config.layer_types = [kinds[layer] for layer in layers]
    return config


def shape_facts(config: PretrainedConfig) -> tuple[Any, ...]:
    """What of a config says the shape of a model."""
    return tuple(getattr(config, name, None) for name in _names(config))


def _names(config: PretrainedConfig) -> tuple[str, ...]:
    family = family_for(config)
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", *_FOLLOWING, "layer_types")
    return names if family is None else (*names, family.rows)


def with_sizes_of(config: PretrainedConfig, other: PretrainedConfig) -> None:
    """Give a config the layers, sizes and heads of another of its class, in place."""
    for name in _names(config):
        value = getattr(other, name, None)
        if value is not None:
            setattr(config, name, value)


def skeleton(model: nn.Module, shape: ModelShape) -> nn.Module:
    """A float model of the same class and this shape, whose parameters have no values yet; its buffers have."""
    made = made_like(model, resized_config(model, shape))
    return made.train(model.training)


def made_like(model: nn.Module, config: PretrainedConfig) -> nn.Module:
    """A model of the same class, whose parameters have no values yet."""
    with torch.random.fork_rng(devices=[]), no_init_weights():
        return type(model)(config)


def hidden_axes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameter to its axes that are hidden states, as layers add to them: those that a larger hidden size changes, but
    for the dimensions of heads."""
    sizes, view = sizes_of(model), AxesView(model)
    config = config_of_sizes(model, Sizes(sizes.layers, 2 * sizes.hidden, sizes.heads, sizes.rows))
    with torch.device("meta"):
        wider = dict(made_like(model, config).named_parameters())
    return {
        name: tuple(
            axis
            for axis, (size, other) in enumerate(zip(one.shape, wider[name].shape))
            if size != other and view.kind(name, axis) is None
        )
        for name, one in model.named_parameters()
    }


class AxesView:
    """What the axes of the tensors of a model are made of.

    Args:
        model: of a known family.
    """

    def __init__(self, model: nn.Module):
        self._model, self._family = model, known_family(model)
        self._layer = re.compile(rf"({self._family.layer})\.(.*)")

    def inside(self, name: str) -> tuple[str, str]:
        """Relative name of the layer that a tensor is in, and its name there; empty outside of layers."""
        match = self._layer.fullmatch(relative_name(self._model, name))
        return ("", "") if match is None else (match[1], match[match.lastindex])

    def kind(self, name: str, axis: int) -> str | None:
        """`"heads"`, or `"rows"` of a feed-forward matrix, where an axis of a tensor is made of them."""
        names, (_, own) = self._family.names, self.inside(name)
        columns = own.endswith("live_columns") or (axis == 1 and own.endswith("weight"))
        axis = 1 if columns else axis
        if axis == 0 and own.startswith(
            tuple(f"{one}." for one in (names.query, names.key, names.value, *names.extra))
        ):
            return "heads"
        if axis == 0 and own.startswith(tuple(f"{one}." for one in names.feed_forward)):
            return "rows"
        if axis == 1 and own.startswith(f"{names.output}."):
            return "heads"
        return "rows" if axis == 1 and own.startswith(f"{names.down}.") else None

    def factors(self, name: str, axis: int, size: int, sizes: Sizes) -> tuple[int, ...]:
        """Of an axis of `size` entries: fused matrices, heads and their dimensions, or the whole."""
        kind, (_, own) = self.kind(name, axis), self.inside(name)
        names = self._family.names
        first = names.query if kind == "heads" else names.up
        shards = self._family.shards(f".{first}") if kind and own.startswith(f"{first}.") else 1
        whole = {"heads": (shards, sizes.heads, sizes.head_size), "rows": (shards, sizes.rows)}.get(kind, (size,))
        return whole if prod(whole) == size else (size,)

    def layer_of(self, name: str) -> int | None:
        """Number of the layer that a tensor is in; None outside, and where all layers share theirs."""
        prefix, _ = self.inside(name)
        return int(prefix.rpartition(".")[2]) if prefix and not self._family.shared_layers else None

    def source(self, name: str, layers: tuple[int, ...] | None) -> str:
        """The tensor of the model that one of a model with only these layers is taken from."""
        prefix, own = self.inside(name)
        if layers is None or not prefix or self._family.shared_layers:
            return name
        stem, _, number = prefix.rpartition(".")
        return name.removesuffix(f"{prefix}.{own}") + f"{stem}.{layers[int(number)]}.{own}"


class Prefixes:
    """Which part of each tensor of a model a smaller one has: of every layer kept, the first heads, the first
    dimensions of each, the first feed-forward rows and hidden dimensions. Fused matrices are cut one by one.

    Args:
        model: the larger one, float or quantized.
        shape: of the smaller one.
    """

    def __init__(self, model: nn.Module, shape: ModelShape):
        self._view, self.layers = AxesView(model), shape.layers
        self._whole, self._sizes = sizes_of(model), sizes_in(model, shape)

    def source(self, name: str) -> str:
        """The larger model's tensor that one of the smaller model is part of."""
        return self._view.source(name, self.layers)

    def keeps(self, name: str) -> bool:
        """Whether a tensor of the larger model is outside of the layers left out."""
        return self._view.layer_of(name) in (None, *(self.layers or (self._view.layer_of(name),)))

    def cut(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
        """The part of `tensor`, differentiable.

        Args:
            name: in the smaller model.
            tensor: of the larger one.
            shape: of the part.
        """
        if tensor.shape == shape:
            return tensor
        before, after = [], []
        for axis, (size, left) in enumerate(zip(tensor.shape, shape)):
            pair = [self._view.factors(name, axis, *one) for one in ((size, self._whole), (left, self._sizes))]
            if len(pair[0]) != len(pair[1]):
                pair = [(size,), (left,)]
            before += pair[0]
            after += pair[1]
        return tensor.reshape(before)[tuple(map(slice, after))].reshape(shape)


def reduced(model: nn.Module, shape: ModelShape) -> nn.Module:
    """A stand-alone float model of a smaller shape with the first part of every dimension, which plain transformers
    saves and loads; `model` is left as it is, and shares nothing with it.

    Args:
        model: float, or trainable with float masters, which are what is taken; of a known family.
        shape: of the result; what it leaves out stays.

    Raises:
        ValueError: when the family is not known, the class needs more than a config, or the shape does not fit.
    """
    small, prefixes = skeleton(model, shape), Prefixes(model, shape)
    check_layers(model, small, prefixes)
    own = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, tensor in small.state_dict(keep_vars=True).items():
            source = own[prefixes.source(name)]
            tensor.data = prefixes.cut(name, source.data, tensor.shape).clone()
            tensor.requires_grad_(source.requires_grad)
    return small.to(next(model.parameters()).device)


def check_layers(model: nn.Module, small: nn.Module, prefixes: Prefixes) -> None:
    """Raise ValueError where the smaller model lacks a tensor of the layers kept, or has another: its first layer is
    made in another way."""
    with torch.device("meta"):
        plain = made_like(model, config_of_sizes(model, sizes_of(model)))
    needed = {prefixes.source(name) for name in small.state_dict(keep_vars=True)}
    different = needed ^ {name for name in plain.state_dict(keep_vars=True) if prefixes.keeps(name)}
    if different:
        raise ValueError(
            f"layers {list(prefixes.layers or ())} of {type(model).__name__} are no model of this class, because of "
            f"{min(different)}: keep layer 0, which is made in another way than the others"
        )


def become(model: nn.Module, small: nn.Module) -> nn.Module:
    """Give a model the config, parts and parameters of another of its class, in place; returns the model. Hooks on the
    model itself, and what a user set on it, stay."""
    hooks = {name for name in vars(model) if "hook" in name}
    model.__dict__.update({name: value for name, value in vars(small).items() if name not in hooks})
    return model
