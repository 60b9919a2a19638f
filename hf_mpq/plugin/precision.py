"""`set_precision`: a nested model used at other precisions, which its config tells from then on."""

import copy
from collections.abc import Mapping

from torch import nn

from ..core import Budget, MatrixStorage
from ..nn import family_of, relative_names
from ..nn import set_precision as switch
from ..nn.given import check_is_module
from ..nn.packed import PackedMatrix
from ..nn.precision import lowered_precisions, nested_matrices, nested_storages, use_precisions
from ..nn.walk import matrices
from .config import MPQConfig
from .folder import stored_tensors
from .guard import quantized_model_inside
from .nested_budget import ModelSizes, precisions_within
from .nested_sizes import sizes_of_packed, sizes_of_trainable
from .saving import attach

Bits = int | Mapping[str, int] | str | float | Budget
"""One precision, precisions by pattern, or a budget."""


def set_precision(model: nn.Module, bits: Bits) -> nn.Module:
    """Switch a nested model to one of its precisions, or its matrices to several, in place; returns the model.

    What is set is used from then on, by every backend, `prepare` and export, and kept when the model is packed,
    unpacked or saved; the file still has all planes (`hf_mpq.extract` leaves some out). Training goes over all
    precisions, and ends at the highest.

    Args:
        model: packed or trainable.
        bits: one precision for all nested matrices; or pattern (a regular expression searched in the relative name) to
            precision, where later patterns win, and matrices that none finds stay as they are; or a budget such as
            `"4MB"`, `"3bits"` or `"0.1x"`, which what `extract` would write does not exceed: of all precisions within
            it, those that change the weights least, without data and without training.

    Normalisation layers with parameters for each precision (`switchable_norms`) use those of the highest precision that
    at least half of the nested weights of their layer reach; outside of layers, half of those of the model.

    Raises:
        ValueError: when the model is not nested, some precision is not stored, a pattern is found in no nested matrix,
            or nothing meets the budget; the model is then as it was.
    """
    check_is_module(model)
    owner = _with_config(model)
    if isinstance(bits, str | float | Budget):
        use_precisions(owner, budget_precisions(owner, bits))
    else:
        switch(owner, bits)
    _tell(owner)
    return model


def _with_config(model: nn.Module) -> nn.Module:
    """The model, or the one inside, whose config tells of its quantization; the model where none does."""
    if isinstance(getattr(getattr(model, "config", None), "quantization_config", None), MPQConfig):
        return model
    name = quantized_model_inside(model)
    return model if name is None else model.get_submodule(name)


def _tell(model: nn.Module) -> None:
    """Write what is set into the config, of which no other model may have a part."""
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    found = lowered_precisions(model)
    if isinstance(config, MPQConfig) and config.precision != found:
        config = copy.copy(config)
        config.precision = found
        attach(model, model.hf_quantizer, config)


def take_up(model: nn.Module, config: MPQConfig) -> None:
    """Use a model as its config tells, from the highest precisions that are stored."""
    highest = {name: stored.served[-1] for name, stored in nested_storages(model).items()}
    known = {name: bits for name, bits in config.precision.items() if name in highest}
    use_precisions(model, highest | known)


def budget_precisions(model: nn.Module, budget: str | float | Budget) -> dict[str, int]:
    """The precision of each nested matrix of a model within a budget."""
    layers = nested_matrices(model)
    if not layers:
        switch(model, {"": 8})  # which says what is missing
    changes = lambda name: weight_changes(layers[name])  # noqa: E731
    return precisions_within(budget, nested_storages(model), _sizes(model), changes)


def weight_changes(layer: nn.Module) -> list[float]:
    """Squared change of a nested weight at each served precision, ascending, from the highest one."""
    highest = layer.weight_at(layer.nested[-1]).double()
    return [float((layer.weight_at(bits).double() - highest).square().sum()) for bits in layer.nested]


def _sizes(model: nn.Module) -> ModelSizes:
    packed: dict[str, MatrixStorage] = {name: one.stored for name, one in matrices(model, PackedMatrix)}
    if not packed:
        return sizes_of_trainable(model)
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in stored_tensors(model).items()}
    relative = relative_names(model)
    tensors = {relative(name): size for name, size in sizes.items()}
    return sizes_of_packed(tensors, packed, model.config.quantization_config.packed["norms"], family_of(model))
