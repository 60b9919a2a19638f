"""Whether modules are what they were when something was made of them."""

from collections.abc import Iterable

from torch import Tensor, nn

from ..nn.packed import PackedMatrix

_CAPTURES = "transformers.utils.output_capturing"
"""Its hooks stay for good once hidden states were asked for, and do nothing unless they are asked for again."""


class Watch:
    """Modules inside another one, as they are now.

    Args:
        root: holds them all.
        parts: those whose values were read.
        name: of the backend that packed ones are prepared for.
        hooked: those whose hooks count; default: the parts.
    """

    def __init__(
        self, root: nn.Module, parts: Iterable[nn.Module], name: str, hooked: Iterable[nn.Module] | None = None
    ):
        parts = list(parts)
        self.matrices = tuple(part for part in parts if isinstance(part, PackedMatrix))
        self.name = name
        self._owners = [module._modules for module in root.modules() if module._modules]
        self._children = [child for owner in self._owners for child in owner.values()]
        self._hooks = [
            hooks
            for module in (parts if hooked is None else hooked)
            for hooks in (module._forward_pre_hooks, module._forward_hooks)
        ]
        self._values = [
            (held, name, value, _version(value))
            for part in parts
            if not isinstance(part, PackedMatrix)
            for held in (part._parameters, part._buffers)
            for name, value in held.items()
            if value is not None
        ]

    def changed(self) -> bool:
        """Whether one was replaced or has hooks, a matrix has lost what it was prepared with, or another's values were
        written to."""
        return (
            (any(self._hooks) and self._hooked())
            or [child for owner in self._owners for child in owner.values()] != self._children
            or any(self.name not in matrix.prepared for matrix in self.matrices)
            or any(held[name] is not value or _version(value) != version for held, name, value, version in self._values)
        )

    def trained(self) -> bool:
        """Whether a gradient can reach one."""
        return any(value.requires_grad for _, _, value, _ in self._values)

    def _hooked(self) -> bool:
        return any(getattr(hook, "__module__", None) != _CAPTURES for hooks in self._hooks for hook in hooks.values())


def _version(value: Tensor) -> int:
    """Rises with every write; tensors made in inference mode do not count."""
    return 0 if value.is_inference() else value._version
