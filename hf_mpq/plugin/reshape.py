"""A float model made smaller before it is compressed: fewer layers, and fewer rows, heads and hidden dimensions."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from ..core import ModelShape, Reduction
from ..nn.batches import batches_of
from ..nn.importance import put_in_order
from ..nn.layer_choice import LAYER_RULES
from ..nn.reshape import become, reduced, sizes_in, sizes_of
from .config_checks import checked_reduction
from .guard import check_is_model
from .saving import detach, own_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WHOLE = "_mpq_whole"


def reshape(
    model: nn.Module,
    shape: str | Mapping[str, Any],
    calibration: Iterable | None = None,
    *,
    batch_size: int = 16,
    max_examples: int | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> nn.Module:
    """Make a float model smaller, in place; it stays one that plain transformers saves and loads, and is not trained.

    Args:
        model: float, of a known family.
        shape: such as `"layers:4"`, `"layers:0+2+5"`, `"layers:4,rows:768,hidden:192,choose:first"`, or a mapping of
            the same; see `MPQConfig`.
        calibration: inputs as of `hf_mpq.compress`, for layers that are chosen by `"influence"`.
        batch_size, max_examples, tokenizer: as of `hf_mpq.compress`.

    Returns:
        The model.

    Raises:
        ValueError: when the shape cannot be read or does not fit the model, its family is not known, its class needs
            more than a config, it is quantized, or examples are missing.
    """
    check_is_model(model, "reshape")
    if getattr(model, "is_quantized", False):
        raise ValueError("this model is quantized already; reshape starts from the float model")
    wanted = checked_reduction(shape)
    batches = batches_of(calibration, model, batch_size, max_examples, tokenizer=tokenizer)
    small = reduction_of(model, wanted, batches)
    return model if small is None else become(model, small)


def reduction_of(model: nn.Module, wanted: Reduction, batches: Sequence[Mapping] = ()) -> nn.Module | None:
    """The smaller model, which shares nothing with `model`; None where that has these sizes already.

    Of rows, heads and hidden dimensions those of largest weights stay; see `put_in_order`.
    """
    whole, shape = sizes_of(model), _shape(model, wanted, batches)
    if shape is None:
        return None
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("the shape of a model is changed in memory: load it whole, without offloading to disk or CPU")
    sizes = sizes_in(model, shape)
    ordered = copy.deepcopy(model)
    own_config(ordered)
    put_in_order(
        ordered, rows=sizes.rows < whole.rows, heads=sizes.heads < whole.heads, hidden=sizes.hidden < whole.hidden
    )
    return reduced(ordered, shape)


def _shape(model: nn.Module, wanted: Reduction, batches: Sequence[Mapping]) -> ModelShape | None:
    whole, layers = sizes_of(model), wanted.layers
    count = len(layers) if isinstance(layers, tuple) else layers or whole.layers
    same = count == whole.layers and (wanted.hidden or whole.hidden, wanted.heads or whole.heads) == (
        whole.hidden,
        whole.heads,
    )
    if same and wanted.rows in (None, whole.rows):
        return None
    if count > whole.layers:
        raise ValueError(f"the model has {whole.layers} layers, and cannot be cut to {count}")
    if not isinstance(layers, tuple):
        kept = count < whole.layers
        layers = LAYER_RULES[wanted.choose](model, count, batches) if kept else tuple(range(whole.layers))
    heads, rows = (value and (value,) * count for value in (wanted.heads, wanted.rows))
    return ModelShape(layers, wanted.hidden, heads, rows)


class _Whole:
    """Holds the model before its reduction; copies share it, and a pickle leaves it out."""

    def __init__(self, model: nn.Module | None = None):
        self.model = model

    def __deepcopy__(self, memo: dict) -> "_Whole":
        return self

    def __reduce__(self):
        return _Whole, ()


def take_reduction(model: nn.Module, small: nn.Module) -> nn.Module:
    """Make a model the smaller one, in place, and keep what it was for `whole_model`; returns it."""
    whole = copy.copy(model)
    become(model, small)
    for name in ("quantization_config", "_is_quantized"):  # where transformers has set them already
        whole.config.__dict__.pop(name, None)
    detach(whole)
    setattr(model, _WHOLE, _Whole(whole))
    return model


def whole_model(model: nn.Module) -> nn.Module | None:
    """The float model before a config's reduction, in this process; None where there was none, or it was loaded."""
    return getattr(vars(model).get(_WHOLE), "model", None)
