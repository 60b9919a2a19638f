"""A whole encoder layer in one call."""

from collections.abc import Mapping
from types import ModuleType

import torch
from torch import Tensor, nn

from ...nn import AttentionQuantizers, PackedLinear, body_of, family_of
from ...nn.families import Family
from ...nn.naming import absolute_names
from ...nn.packed import active_backend, refuse_export
from ..swapped import Swapped, swap_in, swap_out
from ..watch import Watch
from .build import kernel
from .native import NAME, native_grid, native_matrix

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""Types of hidden states, and of masks that are added; inside, all is float32."""
NONLINEARITIES = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}


class Int8Layer(Swapped):
    """Mixin that gives an encoder layer one call for all of it.

    Where the call cannot give what is asked for (attention weights, gradients, another type or device), or one of the
    modules inside has changed (see `Watch`), the original forward runs. Hooks of modules that only hold others are not
    seen: transformers leaves its own on attention for good.
    """

    kept = ("fused", "fused_parts")

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args, **kwargs):
        """As the original layer."""
        if self._must_not_fuse(hidden_states, attention_mask, kwargs):
            return super().forward(hidden_states, attention_mask, *args, **kwargs)
        return self._run(hidden_states, attention_mask)

    @torch.compiler.disable
    def _run(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        refuse_export()
        if hidden_states.dtype == torch.float32:
            return self.fused.run(hidden_states.contiguous(), attention_mask)
        return self.fused.run(hidden_states.float().contiguous(), attention_mask).to(hidden_states.dtype)

    def _must_not_fuse(self, hidden: Tensor, mask: object, kwargs: Mapping) -> bool:
        return (
            active_backend() not in (None, NAME)
            or self.training
            or not _is_plain(mask)
            or self.fused_parts.changed()
            or (torch.is_grad_enabled() and (hidden.requires_grad or self.fused_parts.trained()))
            or bool(kwargs.get("output_attentions"))
            or hidden.dtype not in FLOATS
            or hidden.device.type != "cpu"
        )


def _is_plain(mask: object) -> bool:
    """Whether a mask is none, or one for all heads that the kernel reads; flex attention has masks of its own kind."""
    if not isinstance(mask, Tensor):
        return mask is None
    return mask.dtype in (torch.bool, *FLOATS) and mask.dim() == 4 and mask.shape[1] == 1


def fuse_layers(model: nn.Module, attention_dtype: torch.dtype = torch.float32) -> int:
    """Give every encoder layer that the kernel can run its one call, in place; returns how many.

    Args:
        attention_dtype: of what attention multiplies, where the CPU multiplies bfloat16; sums and softmax are float32.
    """
    family, config = family_of(model), body_of(model).config
    if family is None or family.names.norms is None or getattr(config, "is_decoder", False):
        return 0
    library = kernel()
    if library is None:
        return 0
    activation = NONLINEARITIES.get(getattr(config, family.activation))
    count, absolute = 0, absolute_names(model)
    for prefix in family.layer_prefixes(model) if activation else ():
        layer = model.get_submodule(absolute(prefix))
        fused = _fused(layer, family, library, config, activation, attention_dtype)
        if fused is not None:
            norms = [layer.get_submodule(name) for name in family.names.norms]
            matrices = (module for module in layer.modules() if isinstance(module, PackedLinear))
            swap_in(layer, Int8Layer, fused=fused, fused_parts=Watch(layer, (*matrices, *norms), NAME))
            count += 1
    return count


def restore_layers(model: nn.Module) -> None:
    """Make encoder layers what they were, in place."""
    for module in model.modules():
        swap_out(module, Int8Layer)


def _fused(layer: nn.Module, family: Family, library: ModuleType, config, activation: str, attention_dtype):
    """The kernel's form of one layer; None where it has none."""
    names = family.names
    attend = [layer.get_submodule(name) for name in (names.query, names.key, names.value)]
    output, up, down = (layer.get_submodule(name) for name in (names.output, names.up, names.down))
    if not all(can_fuse(matrix) for matrix in (*attend, output, up, down)):
        return None
    grids = [native_grid(library, part) for part in (attend, [output], [up], [down])]
    attention = layer.get_submodule(names.attention)
    if None in grids or any(isinstance(module, AttentionQuantizers) for module in attention.modules()):
        return None
    matrices = [native_matrix(library, part, grid) for part, grid in zip((attend, [output], [up], [down]), grids)]
    heads = attend[0].out_features // (config.hidden_size // config.num_attention_heads)
    norms = [_norm(library, layer.get_submodule(name)) for name in names.norms]
    return library.Layer(*matrices, *norms, heads, activation, attention_dtype == torch.bfloat16)


def can_fuse(layer: nn.Module) -> bool:
    """Whether both a layer's input and its weight have integers, and nothing else is done to either."""
    return (
        isinstance(layer, PackedLinear)
        and layer.output_quantizer is None
        and not layer.stored.affine
        and layer.has_integers()
    )


def _norm(library: ModuleType, norm: nn.Module):
    weight, bias = norm.weight.detach().float(), norm.bias
    bias = torch.zeros_like(weight) if bias is None else bias.detach().float()
    return library.Norm(weight.contiguous(), bias.contiguous(), norm.eps)
