"""What every packed twin shares: bytes as buffers, and a compute type that follows `.to`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class PackedModule(nn.Module):
    """Holds uint8 buffers only, so that no `dtype=`, `.to` or `.half` changes what is stored.

    Attributes:
        anchor: an empty parameter whose type is the compute type; `model.dtype` finds it too. Never saved.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device | str | None = None):
        super().__init__()
        place = "cpu" if device is None else device  # real in a skeleton too: nothing would load it
        self.anchor = nn.Parameter(torch.empty(0, dtype=dtype, device=place), requires_grad=False)

    @property
    def device(self) -> torch.device:
        """Where the bytes are."""
        return next(iter(self._buffers.values()), self.anchor).device

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of the layer itself have no anchor: it holds nothing, and what moves or trains weights looks here."""
        return ((name, one) for name, one in super().named_parameters(*args, **options) if one is not self.anchor)

    @property
    def compute_dtype(self) -> torch.dtype:
        """The type that weights are decoded to."""
        return self.anchor.dtype

    def materialise(self) -> None:
        """Give the anchor a device, after the buffers were loaded onto one, or left on disk."""
        device = next((octets.device for octets in self.buffers() if not octets.is_meta), torch.device("cpu"))
        self.anchor = nn.Parameter(torch.empty(0, dtype=self.anchor.dtype, device=device), requires_grad=False)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(f"{prefix}anchor")

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        super()._load_from_state_dict({**state_dict, f"{prefix}anchor": self.anchor.data}, prefix, *rest)

    def packed_buffers(self) -> dict[str, Tensor]:
        """Name to bytes of everything that is stored."""
        return {name: buffer for name, buffer in self.named_buffers() if buffer.dtype == torch.uint8}

    def float_parts(self) -> dict[str, torch.dtype]:
        """Name of each buffer that holds the bytes of floats, with their type."""
        return {}

    def contradiction(self) -> str | None:
        """How what is stored differs from what describes it, in words; None where it does not."""
        return None
