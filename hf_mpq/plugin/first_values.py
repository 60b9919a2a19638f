"""First values of a model that is loaded: nothing is drawn for what a packed layer holds."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..nn.packed import PackedModule

_DRAW = "_initialize_weights"
"""What transformers calls for every module of a model once its files are read; see `tests/plugin/test_loading.py`."""


def leave_packed_layers(model: nn.Module) -> None:
    """Until `as_before`, pass over modules whose packed layers and other parameters are all loaded. Some families (as
    ModernBERT) would decode such a layer there, draw random numbers of its size, and drop them."""
    for part in _models(model):
        if hasattr(part, _DRAW):  # it is not public: without it loading is slower, and no more
            setattr(part, _DRAW, partial(_drawn, getattr(part, _DRAW)))


def as_before(model: nn.Module) -> None:
    """Undo `leave_packed_layers`."""
    for part in _models(model):
        vars(part).pop(_DRAW, None)


def _models(model: nn.Module) -> Iterator[PreTrainedModel]:
    return (part for part in model.modules() if isinstance(part, PreTrainedModel))


def _drawn(draw: Callable[..., None], module: nn.Module, *rest: Any, **options: Any) -> None:
    if not (_is_packed(module) and _is_loaded(module)):
        draw(module, *rest, **options)


def _is_packed(module: nn.Module) -> bool:
    return any(isinstance(part, PackedModule) for part in (module, *module.children()))


def _is_loaded(module: nn.Module) -> bool:
    """Buffers of its own, such as positions, are no part of a file and are always set."""
    anchors = {id(part.anchor) for part in module.modules() if isinstance(part, PackedModule)}
    given = (one for one in module.parameters() if id(one) not in anchors)
    own = () if isinstance(module, PackedModule) else module.buffers(recurse=False)
    return not any(True for _ in own) and all(getattr(one, "_is_hf_initialized", False) for one in given)
