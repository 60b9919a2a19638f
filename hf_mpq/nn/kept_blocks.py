"""What encoder layers gave, kept for runs of the same batches in which these layers are as they were."""

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

KEPT_BYTES = 1 << 29
"""Outputs that are kept at most."""
KEPT_STATES = 2
"""Of each call, as many as were used last: of what a search is at, and of what it tries."""

Entry = tuple[Hashable, Any, Any]
"""What a layer's function depended on, its arguments, and what it gave."""


class KeptBlocks:
    """Encoder layers that are not run again where they are as they were and read what they read before.

    A search changes one matrix at a time, and all that is before it gives the same again. What is given is what was
    computed then, bit for bit, as arguments are compared by their values.

    Args:
        blocks: name to module.
        most: bytes of outputs that are kept; calls beyond are run every time.
    """

    def __init__(self, blocks: Mapping[str, nn.Module], most: int = KEPT_BYTES):
        self.blocks, self._left = dict(blocks), most
        self._kept: dict[tuple[str, int], list[Entry]] = {}

    @contextmanager
    def using(self, states: Mapping[str, Hashable]) -> Iterator[None]:
        """Within it, layers that are in eval mode are run where they have to be; nothing is differentiated.

        Args:
            states: of each layer, all that its function depends on and that may change; None runs it every time.
        """
        chosen = {name: block for name, block in self.blocks.items() if states.get(name) is not None}
        before = {name: vars(block).get("forward") for name, block in chosen.items()}
        try:
            for name, block in chosen.items():
                block.forward = _Remembering(self, name, block, states[name])
            yield
        finally:
            for name, block in chosen.items():
                if before[name] is None:
                    del block.forward
                else:
                    block.forward = before[name]

    def of(self, name: str, call: int) -> list[Entry]:
        """What is kept of a layer's call, the last used first."""
        return self._kept.setdefault((name, call), [])

    def keep(self, kept: list[Entry], entry: Entry) -> None:
        """Put an entry first, and take the last one out where there are too many, or too many bytes."""
        size = _bytes(entry[2])
        while kept and (len(kept) == KEPT_STATES or size > self._left):
            self._left += _bytes(kept.pop()[2])
        if size <= self._left:
            self._left -= size
            kept.insert(0, entry)


class _Remembering:
    """The forward of a layer; a copy of the layer has its own."""

    def __init__(self, kept: KeptBlocks, name: str, block: nn.Module, state: Hashable):
        self._all, self._name, self._block, self._state = kept, name, block, state
        self._run, self._calls = block.forward, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._block.training or torch.is_grad_enabled():
            return self._run(*args, **kwargs)
        kept, given = self._all.of(self._name, self._calls), (args, kwargs)
        self._calls += 1
        for place, (state, read, gave) in enumerate(kept):
            if state == self._state and _equal(read, given):
                kept.insert(0, kept.pop(place))
                return gave
        gave = self._run(*args, **kwargs)
        self._all.keep(kept, (self._state, given, gave))
        return gave

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable:
        block = memo.get(id(self._block), self._block)
        own = isinstance(self._run, MethodType) and self._run.__self__ is self._block
        return MethodType(self._run.__func__, block) if own else copy.deepcopy(self._run, memo)


def _equal(one: Any, other: Any) -> bool:
    """Whether two arguments are the same, tensors by their values; what cannot be compared is not."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
        return alike and torch.equal(one, other)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    return isinstance(one, bool | int | float | str) and one == other


def _bytes(given: Any) -> int:
    if isinstance(given, Tensor):
        return given.nbytes
    parts = given.values() if isinstance(given, dict) else given if isinstance(given, tuple | list) else ()
    return sum(map(_bytes, parts))
