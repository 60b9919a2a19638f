"""What is made at its first use, and can be given up again."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..nn.packed import refuse_export


@contextmanager
def for_later() -> Iterator[None]:
    """Inside, tensors are ordinary ones, which a backward pass may keep, in the types that they have without autocast,
    whatever mode their first use is in."""
    floats = torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False)
    with torch.inference_mode(False), torch.no_grad(), floats[0], floats[1]:
        yield


class Deferred(ABC):
    """Stands in for decoding with something that it makes of the weight: at its first use, so that it takes no memory
    where it is never chosen. Threads that come at once may make it twice.

    Attributes:
        stands_back: whether something else answers in its place nearly always.
    """

    made: Any = None
    stands_back = False

    @abstractmethod
    def _make(self) -> Any:
        """What it needs."""

    def ready(self) -> Any:
        """What it needs, made where it is not there."""
        made = self.made
        if made is None:
            refuse_export()
            made = self._made_once()
        return made

    @torch.compiler.disable
    def _made_once(self) -> Any:
        """Outside of graphs, which would make it at every call."""
        with for_later():
            self.made = self._make()
        return self.made

    def release(self) -> None:
        """Give up what was made; the next use makes it again."""
        self.made = None
