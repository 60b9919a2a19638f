"""Several optimizers that look like one to a Trainer and its scheduler."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer


class JointOptimizer(Optimizer):
    """Steps every part; parameters without a gradient are left alone by each.

    Args:
        parts: name to an optimizer that holds its own parameters.
    """

    def __init__(self, parts: Mapping[str, Optimizer]):
        self.parts = dict(parts)
        super().__init__([group for part in self.parts.values() for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """One step of each part."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for part in self.parts.values():
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of all parts."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; raises ValueError when it is of other parts."""
        if set(state_dict) != set(self.parts):
            raise ValueError(
                f"the saved optimizer has {sorted(state_dict)}, this one {sorted(self.parts)}: resume "
                "with the same method and arguments"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]
