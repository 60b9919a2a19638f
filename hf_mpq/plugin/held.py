"""What was read of the files to check it goes into the model as it is: mapped once, and read once."""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from ..nn import modules_by_name, relative_names
from ..nn.packed import PackedModule

_MAPPED: ContextVar[bool] = ContextVar("mapped_files", default=True)


@contextmanager
def mapping(disabled: Any) -> Iterator[None]:
    """Inside, files may stay mapped, or not: what `from_pretrained` was asked with `disable_mmap`."""
    token = _MAPPED.set(not disabled)
    try:
        yield
    finally:
        _MAPPED.reset(token)


class HeldTensors:
    """Checked tensors of a packed folder, for the packed layers of the model that is loaded from it.

    Args:
        tensors: full name in the files to content, as `hf_mpq.format.verify` gives it.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        self._tensors = tensors
        self._put: list[tuple[nn.Module, str, Tensor]] = []

    @staticmethod
    def wanted(device_map: Any) -> bool:
        """Whether the tensors can stay where they are: on the CPU, in files that stay mapped."""
        return device_map is None and _MAPPED.get() and sys.platform != "win32"

    def put(self, model: nn.Module) -> None:
        """Into the skeleton that they fit, where transformers neither reads them again nor makes room for them."""
        relative = relative_names(model)
        found = {relative(name): tensor for name, tensor in self._tensors.items()}
        for name, module in modules_by_name(model):
            if isinstance(module, PackedModule):
                parts = ((part, found.get(f"{relative(name)}.{part}")) for part in module._buffers)
                self._put += [(module, part, tensor) for part, tensor in parts if tensor is not None]
        for module, part, tensor in self._put:
            module._buffers[part] = tensor
            module._non_persistent_buffers_set.add(part)
        parts = "|".join(sorted({re.escape(part) for _, part, _ in self._put}))
        ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None)
        kind = set if isinstance(ignored, set) else list  # newer transformers adds a set to it
        model._keys_to_ignore_on_load_unexpected = kind([*(ignored or ()), rf"\.({parts})$"])
        ours = {id(tensor) for _, _, tensor in self._put}
        others = [(name, one) for name, one in model.named_non_persistent_buffers() if id(one) not in ours]
        model.named_non_persistent_buffers = lambda: iter(others)

    def settle(self, model: nn.Module) -> None:
        """Once all is loaded, make them buffers like others, whatever was done to them in between."""
        for module, part, tensor in self._put:
            module._buffers[part] = tensor
            module._non_persistent_buffers_set.discard(part)
        vars(model).pop("named_non_persistent_buffers", None)
        self._tensors, self._put = {}, []
