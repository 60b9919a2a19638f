"""A packed model without some of its planes: what is left of its tensors, and of what describes them."""

import copy
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..core import MatrixStorage
from .config import MPQConfig

NUMBERED, STORED = r"(?<=\.)\d+(?=\.)", "bit planes are stored"


@dataclass(frozen=True)
class Cut:
    """Which planes, scales and sets of parameters are left out. All that is left comes first where it is stored.

    Attributes:
        matrices: relative name to how a matrix is stored with, and without.
        norms: relative name to the precisions of a normalisation layer with, and without.
        places: full name of a tensor to the relative name of its layer, and the name of the part.
        chosen: matrices whose precision was chosen, whether they lose anything or not.
    """

    matrices: Mapping[str, tuple[MatrixStorage, MatrixStorage]]
    norms: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    places: Mapping[str, tuple[str, str]]
    chosen: frozenset[str]

    def changes(self, full: str) -> bool:
        """Whether a tensor loses something."""
        owner, part = self.places.get(full, ("", ""))
        return owner in self.norms or (owner in self.matrices and part in ("codes", "scales"))

    def of(self, full: str, tensor: Tensor) -> Tensor:
        """What is left of a tensor; of codes the upper planes may be all that was read."""
        if not self.changes(full):
            return tensor
        owner, part = self.places[full]
        if owner in self.norms:
            before, after = self.norms[owner]
            return tensor.view(len(before), -1)[: len(after)].flatten()
        before, after = self.matrices[owner]
        if part == "codes":
            return tensor[: after.buffers().get("codes", 0)]
        kept = len(after.served)
        return tensor.view(before.scale_count // len(before.served), len(before.served), -1)[:, :kept].flatten()

    def config(self, config: MPQConfig) -> MPQConfig:
        """What describes the model that is left."""
        found = copy.copy(config)
        table = dict(config.packed)
        matrices = {name: after.to_dict() for name, (_, after) in self.matrices.items()}
        table["matrices"] = {name: one | matrices.get(name, {}) for name, one in config.packed["matrices"].items()}
        norms = {name: list(after) for name, (_, after) in self.norms.items()}
        table["norms"] = {name: [one[0], norms.get(name, one[1])] for name, one in config.packed["norms"].items()}
        found.packed = table
        found.resolved = [line for line in config.resolved if STORED not in line] + _lines(table["matrices"])
        found.precision = {name: bits for name, bits in config.precision.items() if name not in self.chosen}
        return found


def _lines(table: Mapping[str, Mapping]) -> list[str]:
    """Which planes are left, in words, numbered layers merged."""
    stored = {name: MatrixStorage.from_dict(content) for name, content in table.items()}
    found = Counter(
        (re.sub(NUMBERED, "*", name), f"{one.served[-1]} of {one.nested[-1]} {STORED}")
        for name, one in stored.items()
        if one.served != one.nested
    )
    return [f"{pattern} ({count}): {text}" for (pattern, text), count in found.items()]
