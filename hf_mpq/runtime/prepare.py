"""`prepare`: a packed model made ready to serve."""

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from ..core import unknown
from ..nn import family_of, modules_by_name
from ..nn.given import check_is_module
from ..nn.packed import PackedMatrix
from .automatic import follow, unfollow
from .backends import BACKENDS, Backend, packed_linears
from .compaction import CompactLinear, compact
from .decoded import decode_now
from .int8 import restore_layers
from .native import restore_encoders, runs_natively

AUTOMATIC = ("cpu-native", "cpu-int8", "cpu-float", "cuda", "cuda-float")
"""What `"auto"` chooses from; the first that can run is used where nothing was measured. Of cpu-native and cpu-int8
it is the former where that runs the whole encoder, and otherwise the latter."""


def prepare(model: nn.Module, backend: str = "auto", attention_dtype: torch.dtype = torch.float32) -> nn.Module:
    """Make a packed model ready to serve, in place: removable pruned rows and heads leave the products, and a backend
    takes the place of decoding weights in every pass. Saving writes the same packed files as before.

    What was prepared is dropped where it would no longer be true: by moves to another device or type, by copies, by
    `set_precision` and by `load_state_dict`; the model then decodes again until it is prepared anew. Layers that became
    smaller load only what has the same rows and columns pruned. `torch.export` traces what `"cpu-float"` prepared.

    Args:
        model: packed, as `pack` returns it and `from_pretrained` loads it; put in eval mode. Of what holds such models
            (a SentenceTransformer, a CrossEncoder), each of them is prepared.
        backend: `"reference"`, `"cpu-float"`, `"cpu-int8"`, `"cpu-native"`, `"cuda-float"`, `"cuda"`, or `"auto"`: at
            each shape (batch and tokens, rounded up to powers of two) the fastest of those that can run it where it is,
            which its first use finds out; see `hf_mpq.runtime.automatic.FastestBackend`, kept as
            `model.fastest_backend`. `"cpu-native"` computes nothing for padding: hidden states there are 0.

        attention_dtype: `torch.bfloat16` lets cpu-native and the fused layers of cpu-int8 multiply attention in it
            where the CPU does, which is faster; what it rounds moves more activations to the next level, so labels
            agree with those of the packed model less often.

    Returns:
        The same model.

    Raises:
        ValueError: for a model that is not packed, or a backend that is unknown or cannot run it, with the reason.
    """
    check_is_module(model)
    if attention_dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"attention_dtype must be torch.float32 or torch.bfloat16, got {attention_dtype}")
    if not packed_linears(model):
        raise ValueError("prepare needs a packed model: call hf_mpq.pack(model) first, or load a packed one")
    inside = _models_inside(model)
    if inside:
        for one in inside:
            prepare(one, backend, attention_dtype)
        return model.eval()
    chosen, automatic = _chosen(model, backend), backend.casefold() == "auto"
    undo(model)
    if family_of(model) is not None and not any(isinstance(layer, CompactLinear) for layer in packed_linears(model)):
        compact(model)
    names = [one.name for one in chosen if _applied(one, model.eval(), attention_dtype, automatic)]
    if len(names) > 1:
        follow(model, tuple(names))
    else:
        decode_now(model)
    return model.eval()


def _models_inside(model: nn.Module) -> list[nn.Module]:
    """The packed models in what is no model of transformers; none where layers of its own are packed too."""
    if isinstance(model, PreTrainedModel):
        return []
    found = [one for one in _outermost(model) if packed_linears(one)]
    return found if sum(len(packed_linears(one)) for one in found) == len(packed_linears(model)) else []


def _outermost(module: nn.Module) -> Iterator[PreTrainedModel]:
    for child in module.children():
        if isinstance(child, PreTrainedModel):
            yield child
        else:
            yield from _outermost(child)


def _chosen(model: nn.Module, name: str) -> list[type[Backend]]:
    if name.casefold() == "auto":
        return [BACKENDS[one] for one in AUTOMATIC if BACKENDS[one].unavailable(model) is None]
    if name not in BACKENDS:
        raise ValueError(unknown("backend", name, ["auto", *BACKENDS]))
    reason = BACKENDS[name].unavailable(model)
    if reason is not None:
        raise ValueError(f"backend {name!r} cannot run this model here: {reason}")
    return [BACKENDS[name]]


def _applied(backend: type[Backend], model: nn.Module, attention_dtype: torch.dtype, automatic: bool) -> bool:
    """Prepare for a backend; whether it is one to choose from."""
    if automatic and backend.name == "cpu-int8" and runs_natively(model):
        return False
    backend.apply(model, attention_dtype)
    if automatic and backend.name == "cpu-native" and not runs_natively(model):
        for module in model.modules():
            if isinstance(module, PackedMatrix):
                module.prepared.pop(backend.name, None)
        return False
    return True


def undo(model: nn.Module) -> None:
    """Let a model decode again, in place."""
    unfollow(model)
    restore_encoders(model)
    restore_layers(model)
    for _, module in modules_by_name(model):
        if isinstance(module, PackedMatrix):
            module.prepared = {}
