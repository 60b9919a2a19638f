"""The verbs on whole models."""

import copy
from dataclasses import asdict

import torch
from torch import nn

from ..core import Assignment, PrecisionSpace, Reduction
from ..cost import limits_of
from ..nn import (
    MPQLayerNorm,
    PackedLayerNorm,
    convert,
    dequantize_modules,
    derive,
    initialise,
    pack_modules,
)
from ..nn import fix as fix_gates
from ..nn.convert import refresh
from ..nn.given import check_is_module, in_python
from ..nn.packed import PackedMatrix
from ..nn.precision import use_precisions
from ..nn.shapes import changed_shapes
from ..nn.walk import is_open, matrices
from ..search.strategies import likeliest_of
from ..weights.activations import FixedGridQuantizer
from .adapters import check_without_adapters
from .config import MPQConfig
from .guard import check_is_config, check_is_model, quantized_inside, quantized_model_inside
from .heads import is_latency, join_heads
from .numbers import check_numbers, warn_dense, warn_saturated
from .origin import remember_base, remember_making
from .precision import take_up
from .quantizer import MPQHfQuantizer
from .reshape import reduction_of, take_reduction
from .resolve import check_activation, check_applied
from .saving import attach, own_config
from .skeleton import packed_table
from .space import decided, keep_space, kept_space, space_of
from .summary import resolved_lines


def quantize(model: nn.Module, config: MPQConfig) -> nn.Module:
    """Quantize a float model in memory, in place: the same as `from_pretrained(..., quantization_config=config)`.

    Returns:
        The model, trainable: float masters under their usual names, with scales and gates.

    A trainable model that this very config quantized is returned as it is.

    Raises:
        ValueError: when the model, or one inside, is quantized otherwise, it is none of transformers, nothing in it is
            in scope, a weight is NaN or infinite, or the config's shape does not fit it.
    """
    check_is_model(model)
    check_is_config(config)
    if getattr(model, "is_quantized", False):
        if _is_quantized_by(model, config):
            return model
        raise ValueError("this model is quantized already; call model.dequantize() or hf_mpq.unpack(model) first")
    inside = quantized_inside(model)
    if inside is not None:
        raise ValueError(
            f"{inside} of this {type(model).__name__} is quantized already; call {in_python(inside)}.dequantize() first"
        )
    check_numbers(dict(model.named_parameters()))
    config = _for_model(config, model)
    small = None if config.shape is None else reduction_of(model, Reduction.of(config.shape))
    target = model if small is None else small
    own_config(target)
    space = config.resolve(target)
    config.resolved = resolved_lines(space)
    check_applied(config, space)
    config.shapes = changed_shapes(target, [name for name, spec in space.weights.items() if spec.kind == "linear"])
    check_activation(config)
    if small is not None:
        take_reduction(model, small)
    _convert_on_device(model, space)
    remember_base(model, config)
    _attach(model, config, space)
    return model


def _for_model(config: MPQConfig, model: nn.Module) -> MPQConfig:
    """A copy of a config, with what depends on the model."""
    config = copy.deepcopy(config)
    config.check()
    if any(map(is_latency, config.budgets)):
        join_heads(config, model)
    config.embedding_bits, config.inside, config.precision = config.table_bits, "", {}
    return config


def _is_quantized_by(model: nn.Module, config: MPQConfig) -> bool:
    """Whether a quantized model is what `quantize` would make of a float one."""
    known = getattr(model.config, "quantization_config", None)
    if not isinstance(known, MPQConfig) or known.storage == "packed":
        return False
    asked = asdict(_for_model(config, model))
    return all(value == asked[name] for name, value in asdict(known).items() if name not in _TOLD)


_TOLD = ("origin", "resolved", "shapes", "inside", "precision", "format_version")
"""Fields that tell of the model rather than decide something."""


def _convert_on_device(model: nn.Module, space: PrecisionSpace) -> None:
    device = next(model.parameters()).device
    convert(model, space)
    initialise(model.to(device))
    warn_dense(model)


def _attach(model: nn.Module, config: MPQConfig, space: PrecisionSpace | None) -> None:
    attach(model, MPQHfQuantizer(config, pre_quantized=False))
    keep_space(model, space)


def _config_of(model: nn.Module) -> MPQConfig:
    check_is_module(model)
    check_without_adapters(model)
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    if not isinstance(config, MPQConfig):
        inside = quantized_model_inside(model)
        if inside is not None:
            raise ValueError(f"{type(model).__name__} is no PreTrainedModel: give {in_python(inside)}")
        raise ValueError("this model is not quantized by hf_mpq; call hf_mpq.quantize(model, MPQConfig(...)) first")
    return config


def fix(model: nn.Module, assignment: Assignment | None = None) -> nn.Module:
    """Decide the precision of every sub-group and fold away what is pruned, in place; the model can be trained on.

    Args:
        assignment: the decision; by default the likeliest precision of each gate, or under the config's budget the
            likeliest ones that meet it. What it leaves out (activation bits, an N:M pattern) stays as it is.

    Raises:
        ValueError: when the model is not trainable, or some field of the assignment does not fit it; the model is then
            as it was.
    """
    config = copy.deepcopy(_config_of(model))
    if config.storage == "packed":
        raise ValueError("a packed model is fixed already; hf_mpq.unpack(model) makes it trainable")
    space = kept_space(model)
    assignment = likeliest(model, config) if assignment is None else assignment
    fix_gates(model, assignment)
    found = derive(model)
    config.assignment = found.to_dict()
    _attach(model, config, space and decided(space, found))
    return model


def pack(model: nn.Module) -> nn.Module:
    """Turn trainable storage into packed storage, in place; gates that are still open are decided as by `fix`.

    The packed model gives the same outputs, cannot be trained, and `save_pretrained` writes a file of the size that
    `size_report` says. Nested codes are stored with all planes, and used at the precision that `set_precision` named.

    Raises:
        ValueError: when the model is not quantized by hf_mpq, is packed already, holds NaN or infinity, or has
            activation ranges that were never observed; the layers are then as they were, but for open gates, which are
            decided by then.
    """
    config = copy.deepcopy(_config_of(model))
    if config.storage == "packed":
        raise ValueError("this model is packed already; save it with model.save_pretrained(...)")
    check_numbers(model.state_dict())
    if is_open(model):
        fix(model)
    space = kept_space(model)
    pack_modules(model)
    take_up(model, config)
    warn_saturated(model)
    config.storage, config.packed, config.assignment = "packed", packed_table(model), None
    remember_making(config)
    _attach(model, config, space)
    return model


def unpack(model: nn.Module) -> nn.Module:
    """Turn packed storage back into trainable storage, in place: the decoded weights become the float masters.

    Packing again without training gives the same bytes. Activation ranges that were learned stay as they are packed.

    Raises:
        ValueError: when the model is not packed, or planes of nested codes were left out.
    """
    config = copy.deepcopy(_config_of(model))
    if config.storage != "packed":
        raise ValueError("this model is not packed; it can be trained as it is")
    if model.dtype != torch.float32:
        raise ValueError("only a float32 model can be unpacked without loss: load the folder with dtype=torch.float32")
    packed = dict(matrices(model, PackedMatrix))
    for name, one in packed.items():
        if one.stored.served != one.stored.nested:
            raise ValueError(
                f"{name} has only {one.stored.served[-1]} of its {one.stored.nested[-1]} bit planes here: unpack the "
                "whole model, or make this one float with model.dequantize()"
            )
    use_precisions(model, {name: one.nested[-1] for name, one in packed.items() if one.nested})
    norms = dict(matrices(model, PackedLayerNorm))
    grids = {name: octets for name, octets in model.named_buffers() if name.endswith("grid_bytes")}
    if grids:
        frozen = next(one for one in model.modules() if isinstance(one, FixedGridQuantizer))
        config.activation, config.activation_options = frozen.name, frozen.options
    config.assignment = derive(model).to_dict()
    config.storage, config.packed = "trainable", {}
    dequantize_modules(model)
    model.is_quantized = False
    space = config.resolve(model)
    config.resolved = resolved_lines(space)
    _convert_on_device(model, space)
    for name, layer in matrices(model):
        _take_back(layer, packed[name])
    for name, norm in matrices(model, MPQLayerNorm):
        _take_back_norm(norm, norms[name])
    for name, octets in grids.items():
        model.get_buffer(name).copy_(octets)
    refresh(model)
    take_up(model, config)
    _attach(model, config, space)
    return model


@torch.no_grad()
def _take_back_norm(norm: MPQLayerNorm, packed: PackedLayerNorm) -> None:
    """Give an unpacked normalisation the parameters of its lower precisions."""
    for position in range(len(packed.precisions) - 1):
        packed.position = position
        norm.lower_weight[position] = packed.weight
        if norm.bias is not None:
            norm.lower_bias[position] = packed.bias


@torch.no_grad()
def _take_back(layer: nn.Module, packed: PackedMatrix) -> None:
    """Give an unpacked layer the scales and masks that were stored."""
    group_bits = packed.group_bits()
    for bits, floats in packed.group_floats().items():
        layer.program.quantizer.restore(bits, (group_bits == bits).nonzero().flatten(), floats)
    if layer.program.layout.axis == 0:
        layer.program.live_columns.copy_(packed.column_flags())
    if layer.spec.bias:
        layer.live_rows.copy_(packed.row_flags())
    if packed.stored.affine or packed.stored.rank:
        layer.take_back(packed)
    if layer.program.mask is not None:
        layer.program.mask.keep.copy_(packed.kept_weights())


def likeliest(model: nn.Module, config: MPQConfig) -> Assignment:
    """What open gates would give now, projected into the config's budgets where it has some: of all assignments that
    meet them, the one of highest probability."""
    space = space_of(model)
    return likeliest_of(space, model, limits_of(space, config.budgets))


def assignment_of(model: nn.Module) -> Assignment:
    """Bits of every sub-group and input of a quantized model, packed or trainable, with its N:M patterns; open gates
    give their most likely precision.

    Raises:
        ValueError: when the model is not quantized by hf_mpq.
    """
    _config_of(model)
    return derive(model)
