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
        up, down: feed-forward matrices; a gated `up` holds (activated, gate) as two shards.
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

    @property
    def fused(self) -> bool:
        """Whether query, key and value are one matrix."""
        return self.query == self.key

    @property
    def matrices(self) -> tuple[str, ...]:
        """All distinct names."""
        return tuple(dict.fromkeys((self.query, self.key, self.value, self.output, self.up, self.down, *self.extra)))


@dataclass(frozen=True)
class Family:
    """One family, as data. Names are relative to `base_model_prefix`.

    Attributes:
        layer: pattern of an encoder layer's name.
        names: of the matrices in a layer.
        embeddings: tables in the default scope.
        projections: other linear layers in the default scope, in the body and in heads: mapping-in, pooler, transforms
            before a task's last layer. The last layer of a head stays float.
        activation: config attribute with the feed-forward activation.
        gated: the feed-forward `up` matrix is gated.
        rotary: queries and keys are rotated in pairs.
        relative_positions: positions are projected by query and key, or by their own matrices.
        removable_heads: whether a whole head can be taken out; not where a table of biases counts the heads.
        interface: whether attention goes through the attention interface of transformers.
        shared_layers: config attribute with the number of layer groups that all layers share.
        rows: config attribute with the number of feed-forward rows.
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
    interface: bool = True
    shared_layers: str | None = None
    rows: str = "intermediate_size"

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
            return 3
        return 2 if self.gated and name.endswith(f".{self.names.up}") else 1

    def calls(self, config) -> int:
        """Products per forward pass of an encoder matrix."""
        return config.num_hidden_layers // getattr(config, self.shared_layers) if self.shared_layers else 1

    def heads(self, name: str, config) -> int | None:
        """Heads of a projection that has them; None for others."""
        attended = (self.names.query, self.names.key, self.names.value)
        return config.num_attention_heads if name.endswith(tuple(f".{part}" for part in attended)) else None

    def links(self, model: nn.Module) -> list[Link]:
        """Producers and consumers in every layer."""
        modules = dict(relative_modules(model))
        prefixes = self.layer_prefixes(model)
        config = body_of(model).config
        return [link for prefix in prefixes for link in self._layer_links(prefix, modules, config)]

    def _layer_links(self, prefix: str, modules: dict[str, nn.Module], config) -> list[Link]:
        names, activation = self.names, getattr(config, self.activation)
        full = lambda name: f"{prefix}.{name}"  # noqa: E731
        rows = lambda name: modules[full(name)].out_features  # noqa: E731
        parts = 3 if names.fused else 1
        size = rows(names.query) // parts
        query, key, value = (
            RowBlock(full(name), shard * size if names.fused else 0, size)
            for shard, name in enumerate((names.query, names.key, names.value))
        )
        links = [Link("value", (value,), full(names.output), heads=config.num_attention_heads)]
        if self._scores_foldable(modules[full(names.key)], config):
            links.append(
                Link(
                    "scores",
                    (query, key),
                    heads=config.num_attention_heads,
                    rotary=self.rotary,
                    paired=self.relative_positions,
                )
            )
        up = rows(names.up) // (2 if self.gated else 1)
        blocks = tuple(RowBlock(full(names.up), start, up) for start in ((0, up) if self.gated else (0,)))
        kind = "gated" if self.gated else "pointwise"
        return [*links, Link(kind, blocks, full(names.down), activation=activation)]

    def _scores_foldable(self, key: nn.Module, config) -> bool:
        """Rotation makes a key's bias depend on its position; relative positions need the projections shared."""
        if self.rotary:
            return key.bias is None
        return not self.relative_positions or bool(getattr(config, "share_att_key", False))
