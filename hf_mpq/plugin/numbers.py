"""Numbers that cannot be stored, or that no stored model holds."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from transformers.utils import logging

from ..core import from_bytes
from ..format import PackedFormatError, check_finite
from ..nn import relative_modules
from ..nn.packed import PackedModule
from ..nn.walk import matrices
from ..weights import ActivationQuantizer
from ..weights.masks import LockedMask

logger = logging.get_logger(__name__)


def check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError when a float tensor holds NaN or infinity, naming it."""
    for name, tensor in tensors.items():
        floating = tensor.is_floating_point() and not tensor.is_meta
        if floating and not bool(torch.isfinite(tensor.detach()).all()):
            raise ValueError(
                f"{name} holds NaN or infinity, which no precision can store: look at the training that "
                "led to it (a lower learning rate?), or at the file that it came from"
            )


def warn_saturated(model: nn.Module) -> None:
    """Say which stored floats of a packed model are the largest that their type holds."""
    found = [name for name, values, largest in _stored(model) if bool((values.abs() == largest).any())]
    if found:
        logger.warning(
            f"{len(found)} stored tensors reach the largest number of float16 (65504), first {found[0]}: "
            "their values were beyond it and are smaller now. float_dtype='float32' and "
            "scale_dtype='float32' in the MPQConfig keep them"
        )


def warn_dense(model: nn.Module) -> None:
    """Say when masks that keep the zeros of a model find none."""
    masks = [layer.program.mask for _, layer in matrices(model) if layer.program.mask is not None]
    if masks and all(isinstance(mask, LockedMask) and bool(mask.keep.all()) for mask in masks):
        logger.warning(
            "mask='locked' keeps the zeros of a model that was pruned before, and this one has none: nothing will be "
            "pruned. Prune it first, by method='prune-ofa-pretrain' and MPQTrainer.save_float"
        )


def check_contents(model: nn.Module) -> None:
    """Raise PackedFormatError when stored bytes of a packed model stand for NaN or infinity, or contradict config.json.

    The digests agree by then: this is what a file says that was written wrongly, or on purpose.
    """
    for name, values, _ in _stored(model):
        check_finite(name, values)
    for name, module in relative_modules(model, PackedModule):
        problem = module.contradiction()
        if problem:
            raise PackedFormatError(
                f"{name}: {problem} in config.json: copy or download the folder again, or pack the model anew"
            )


def check_gates(model: nn.Module) -> None:
    """Raise PackedFormatError when a trainable layer was given a precision that config.json does not offer."""
    for name, layer in matrices(model):
        gate = layer.program.gate
        if not gate.searching and not set(gate.derive().tolist()) <= set(layer.spec.candidates):
            raise PackedFormatError(
                f"{name} has bits that are not among its candidates "
                f"{layer.spec.candidates} in config.json: copy or download it again"
            )


def _stored(model: nn.Module) -> Iterator[tuple[str, Tensor, float]]:
    """Relative name, values and largest finite value of whatever is stored as the bytes of floats."""
    for own, module in relative_modules(model, (PackedModule, ActivationQuantizer)):
        if isinstance(module, PackedModule):
            for part, dtype in module.float_parts().items():
                yield f"{own}.{part}", from_bytes(module.get_buffer(part), dtype), torch.finfo(dtype).max
        else:
            for part, octets in module.named_buffers(recurse=False):
                if octets.dtype == torch.uint8:
                    yield f"{own}.{part}", from_bytes(octets, torch.float32), torch.finfo(torch.float32).max
