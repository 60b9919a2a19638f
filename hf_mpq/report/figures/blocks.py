"""Where sub-groups stand: in which layer, and in which logical matrix of it."""

import re
from dataclasses import dataclass

from ...nn import Family

NUMBERED = r".*?\.\d+"
"""A layer of an unknown family."""


@dataclass(frozen=True)
class Block:
    """One logical matrix: a whole weight, or one shard of a fused one.

    Attributes:
        name: of the weight, relative to `base_model_prefix`.
        layer: prefix of its encoder layer; None outside of layers.
        label: what it is, such as `"query"` or `"word_embeddings"`.
        shard: its number among those of the weight.
        attended: whether its rows belong to attention heads.
    """

    name: str
    layer: str | None
    label: str
    shard: int = 0
    attended: bool = False


def blocks_of(name: str, shards: int, family: Family | None) -> list[Block]:
    """The logical matrices of one weight, in the order of its rows; of an unknown family, layers are what is numbered.

    Args:
        name: relative to `base_model_prefix`.
        shards: logical matrices fused in it.
        family: of the model.
    """
    match = re.fullmatch(rf"({NUMBERED if family is None else family.layer})\.(.+)", name)
    if match is None:
        return [Block(name, None, name.removeprefix("embeddings."))]
    layer, part = match.groups()
    labels = _labels(part, shards, family)
    return [Block(name, layer, label, shard, label in ("query", "key", "value")) for shard, label in enumerate(labels)]


def _labels(part: str, shards: int, family: Family | None) -> list[str]:
    last = part.rpartition(".")[2]
    if family is None:
        return [part] if shards == 1 else [f"{last} {shard}" for shard in range(shards)]
    names = family.names
    if shards > 1:
        return ["query", "key", "value"] if part == names.query else ["up", "gate"]
    roles = {
        names.query: "query",
        names.key: "key",
        names.value: "value",
        names.output: "output",
        names.up: "up",
        names.down: "down",
        names.gate: "gate",
    }
    roles = {} if family.by_head and part == names.query else roles
    return [roles.get(part, last)]
