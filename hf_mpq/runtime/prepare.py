"""`prepare`: a packed model made ready to serve."""

from torch import nn

from ..nn import family_of
from ..nn.packed import PackedMatrix
from .backends import BACKENDS, Backend, packed_linears
from .compaction import CompactLinear, compact
from .int8 import restore_layers

AUTOMATIC = ("cpu-int8", "cpu-float", "reference")
"""What `"auto"` tries, in this order."""


def prepare(model: nn.Module, backend: str = "auto") -> nn.Module:
    """Make a packed model ready to serve, in place: removable pruned rows and heads leave the products, and a backend
    takes the place of decoding weights in every pass. Saving writes the same packed files as before.

    What was prepared is dropped where it would no longer be true: by moves to another device or type, by copies and by
    `set_precision`; the model then decodes again until it is prepared anew.

    Args:
        model: packed, as `pack` returns it and `from_pretrained` loads it; put in eval mode.
        backend: `"reference"`, `"cpu-float"`, `"cpu-int8"`, or `"auto"`: the last of these that can run it here.

    Returns:
        The same model.

    Raises:
        ValueError: for a model that is not packed, or a backend that is unknown or cannot run it, with the reason.
    """
    if not packed_linears(model):
        raise ValueError("prepare needs a packed model: call hf_mpq.pack(model) first, or load a packed one")
    chosen = _chosen(model, backend)
    _undo(model)
    if family_of(model) is not None and not any(isinstance(layer, CompactLinear) for layer in packed_linears(model)):
        compact(model)
    chosen.apply(model.eval())
    return model


def _chosen(model: nn.Module, name: str) -> type[Backend]:
    if name == "auto":
        return next(BACKENDS[one] for one in AUTOMATIC if BACKENDS[one].unavailable(model) is None)
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; the known ones are: auto, {', '.join(sorted(BACKENDS))}")
    reason = BACKENDS[name].unavailable(model)
    if reason is not None:
        raise ValueError(f"backend {name!r} cannot run this model here: {reason}")
    return BACKENDS[name]


def _undo(model: nn.Module) -> None:
    restore_layers(model)
    for module in model.modules():
        if isinstance(module, PackedMatrix):
            module.prepared = None
