"""How many operators a training step runs: on a GPU each is a launch, which small models spend their time on."""

from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from hf_mpq.weights.compilation import watch

NO_LAUNCH = {"detach", "alias", "_unsafe_view", "_local_scalar_dense"}
"""Beside views: what computes nothing, and reads of one number."""


class OperatorCount(TorchDispatchMode):
    """Counts the ATen operators that compute something. What is compiled for large tensors is one, whatever the size.

    Attributes:
        count: of what ran inside so far.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __enter__(self):
        watch.append(self._fused)
        return super().__enter__()

    def __exit__(self, *raised):
        watch.pop()
        return super().__exit__(*raised)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not (function.is_view or function.overloadpacket.__name__ in NO_LAUNCH)
        return function(*args, **(kwargs or {}))

    def _fused(self, function: Callable, *args):
        self.count += 1
        with _disable_current_modes():
            return function(*args)


def operators(step: Callable[[], None]) -> int:
    """Those of one step, after one that sets everything up."""
    step()
    with OperatorCount() as counted:
        step()
    return counted.count
