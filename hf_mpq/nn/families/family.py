"""The description of a family of encoders, and what follows from it for one model."""

import re
from dataclasses import dataclass

from torch import nn

from ...core import Link, RowBlock
from ..naming import body_of, relative_modules


@dataclass(frozen=True)
class LayerNames:
    """Names of the matrices inside one encoder layer, and how their rows feed each other.

    Attributes:
        query, key, value: separate projections, or all three the same name for a fused one (shards in that order).
        output: projection after attention.
        up, down: feed-forward matrices; a gated `up` holds (activated, gate) as two shards, unless `gate` is apart.
        gate: matrix whose output is multiplied with that of `up`, which alone is activated; None where there is none
            apart.
        norms: of a layer that is `h = norm(x + attention(x))`, `norm(h + feed_forward(h))` and no more: its two
            normalisations; None for every other shape.
        extra: further matrices of the layer that nothing is folded through.
        attention: module that runs attention and owns the quantizers of its operands.
    """

    query: str
    key: str
    value: str
    output: str
    up: str
    down: str
    attention: str
    norms: tuple[str, str] | None = None
    extra: tuple[str, ...] = ()
    gate: str | None = None

    @property
    def fused(self) -> bool:
        """Whether query, key and value are one matrix."""
        return self.query == self.key

    @property
    def matrices(self) -> tuple[str, ...]:
        """All distinct names."""
        attended = (self.query, self.key, self.value, self.output)
        return tuple(dict.fromkeys((*attended, *self.feed_forward, self.down, *self.extra)))

    @property
    def feed_forward(self) -> tuple[str, ...]:
        """What reads the input of the feed-forward part: `up`, and `gate` where it is apart."""
        return (self.up,) if self.gate is None else (self.up, self.gate)


@dataclass(frozen=True)
class Family:
    """One family, as data. Names are relative to `base_model_prefix`.

    Attributes:
        layer: pattern of an encoder layer's name.
        names: of the matrices in a layer.
        embeddings: tables in the default scope.
        projections: other linear layers in the default scope, in the body and in heads: mapping-in, pooler, transforms
            before a task's last layer. The last layer of a head stays float.
        activation: config attribute with the feed-forward activation, or where no config says it, the activation.
        gated: the feed-forward `up` matrix holds its gate too.
        rotary: queries and keys are rotated in pairs.
        relative_positions: positions are projected by query and key, or by their own matrices.
        removable_heads: whether a whole head can be taken out; not where a table of biases counts the heads.
        by_head: rows of a fused matrix are query, key and value of one head after the other: no shards.
        plain_attention: whether an output of attention depends on the rows of query, key and value as everywhere; not
            where some tokens have projections of their own. Otherwise nothing is folded through attention.
        key_value_heads: config attribute with the number of key and value heads, where there may be fewer than queries
            have: then nothing is folded through attention either.
        interface: whether attention goes through the attention interface of transformers.
        operands: whether the operands of attention can be quantized.
        resizable: whether a config with other layers, hidden size, heads and rows is all that a smaller model needs,
            whose tensors are the first part of each dimension.
        inputs: what forward takes for each token beside ids, mask and types, with how many numbers a token has: None is
            one and no axis of its own, a word a config attribute.
        untraced: why the code cannot be traced into a graph; None where it can.
        initialised_by_name: whether transformers reads weights of layers by their names while it loads, which formats
            that unpack them afterwards do not have yet; so of fused ones.
        shared_layers: config attribute with the number of layer groups that all layers share.
        rows: config attribute with the number of feed-forward rows.
        variant: config attribute, and the family where that is true.
    """

    layer: str
    names: LayerNames
    embeddings: tuple[str, ...]
    projections: tuple[str, ...] = ()
    activation: str = "hidden_act"
    gated: bool = False
    rotary: bool = False
    relative_positions: bool = False
    removable_heads: bool = True
    by_head: bool = False
    plain_attention: bool = True
    key_value_heads: str | None = None
    interface: bool = True
    operands: bool = True
    resizable: bool = True
    inputs: tuple[tuple[str, int | str | None], ...] = ()
    untraced: str | None = None
    initialised_by_name: bool = False
    shared_layers: str | None = None
    rows: str = "intermediate_size"
    variant: tuple[str, "Family"] | None = None

    def of(self, config) -> "Family":
        """The family of a model with this config: itself, or its variant."""
        return self.variant[1] if self.variant is not None and getattr(config, self.variant[0], False) else self

    def layer_prefixes(self, model: nn.Module) -> list[str]:
        """Relative names of the encoder layers, in order."""
        return [name for name, _ in relative_modules(model) if re.fullmatch(self.layer, name)]

    def encoder_names(self, model: nn.Module) -> list[str]:
        """Relative names of the encoder's matrices that the model has."""
        present = {name for name, _ in relative_modules(model)}
        names = [f"{prefix}.{name}" for prefix in self.layer_prefixes(model) for name in self.names.matrices]
        return [name for name in names if name in present]

    def shards(self, name: str) -> int:
        """Logical matrices fused in the matrix `name`."""
        if self.names.fused and name.endswith(f".{self.names.query}"):
            return 1 if self.by_head else 3
        return 2 if self.gated and name.endswith(f".{self.names.up}") else 1

    def calls(self, config) -> int:
        """Products per forward pass of an encoder matrix."""
        return config.num_hidden_layers // getattr(config, self.shared_layers) if self.shared_layers else 1

    def heads(self, name: str, config) -> int | None:
        """Heads of a projection that has them; None for others."""
        if name.endswith(f".{self.names.query}"):
            return config.num_attention_heads
        read = name.endswith((f".{self.names.key}", f".{self.names.value}"))
        return self.read_heads(config) if read else None

    def read_heads(self, config) -> int:
        """Heads of keys and values."""
        return getattr(config, self.key_value_heads or "", None) or config.num_attention_heads

    def prunes_heads(self, config) -> bool:
        """Whether a whole head is one choice whose query, key and value rows can all go."""
        alike = self.plain_attention and self.read_heads(config) == config.num_attention_heads
        return self.removable_heads and alike and not self.names.fused

    def links(self, model: nn.Module) -> list[Link]:
        """Producers and consumers in every layer."""
        modules = dict(relative_modules(model))
        prefixes = self.layer_prefixes(model)
        config = body_of(model).config
        return [link for prefix in prefixes for link in self._layer_links(prefix, modules, config)]

    def _layer_links(self, prefix: str, modules: dict[str, nn.Module], config) -> list[Link]:
        found = self._attention_links(prefix, modules, config) if self.plain_attention else []
        return [*found, self._feed_forward_link(prefix, modules, getattr(config, self.activation, self.activation))]

    def _attention_links(self, prefix: str, modules: dict[str, nn.Module], config) -> list[Link]:
        names, heads = self.names, config.num_attention_heads
        if self.read_heads(config) != heads:
            return []
        full = lambda name: f"{prefix}.{name}"  # noqa: E731
        size = modules[full(names.query)].out_features // (3 if names.fused else 1)
        query, key, value = (
            RowBlock(full(name), shard * size if names.fused else 0, size)
            for shard, name in enumerate((names.query, names.key, names.value))
        )
        links = [Link("value", (value,), full(names.output), heads=heads)]
        if self._scores_foldable(modules[full(names.key)], config):
            turned = {"rotary": self.rotary, "paired": self.relative_positions}
            links.append(Link("scores", (query, key), heads=heads, **turned))
        return links

    def _feed_forward_link(self, prefix: str, modules: dict[str, nn.Module], activation: str) -> Link:
        names = [f"{prefix}.{name}" for name in self.names.feed_forward]
        up = modules[names[0]].out_features // (2 if self.gated else 1)
        places = [(names[0], 0), (names[0], up)] if self.gated else [(name, 0) for name in names]
        blocks = tuple(RowBlock(name, start, up) for name, start in places)
        kind = "gated" if len(blocks) == 2 else "pointwise"
        return Link(kind, blocks, f"{prefix}.{self.names.down}", activation=activation)

    def _scores_foldable(self, key: nn.Module, config) -> bool:
        """Rotation makes a key's bias depend on its position; relative positions need the projections shared."""
        if self.rotary:
            return key.bias is None
        return not self.relative_positions or bool(getattr(config, "share_att_key", False))
