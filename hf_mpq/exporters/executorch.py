"""Programs of ExecuTorch; experimental."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import PackedLinear, family_of
from ..nn.affine import shift_and_scale
from ..nn.integers import IntegerMatrix
from ..nn.naming import body_of
from ..runtime import CompactLinear, compact
from .base import EXPORTERS, Exporter, ExportRequest, has_uneven_inputs
from .bert_parts import first_position
from .configs import save_plain_config
from .onnx import OLDEST_TRACED, _broadcast_masks, _Traced
from .portable import make_portable

MOST_TOKENS = 512
"""Memory is planned for a text of so many at most."""
EXAMPLE_TOKENS = 9


@EXPORTERS.register("executorch")
class ExecuTorchExporter(Exporter):
    """`model.pte` for XNNPACK and the portable kernels, one text at a time, and `config.json`; experimental.

    Matrices are integers with a scale per row, in half a byte where 4 bits hold them, and tables int8. Those with
    offsets, scales per column or a low-rank correction are rounded to 8 bits. Inputs are rounded to 8 bits with a range
    for each token, whatever they were trained with, unless `activations="float"`, which writes float matrices.
    """

    packages = ("executorch",)
    transformers = OLDEST_TRACED
    extra = "executorch"

    @classmethod
    def write(cls, model: nn.Module, folder: Path, request: ExportRequest) -> None:
        family = family_of(model)
        if family is not None and family.untraced is not None:
            raise ValueError(
                f"{model.config.model_type!r} models have no graph: {family.untraced}; export it as 'dense'"
            )
        if request.activations != "float" and has_uneven_inputs(model):
            raise ValueError(
                "XNNPACK gives each token a range of even levels, and the inputs of this model have a learned basis: "
                "export it as 'onnx' or 'openvino', which keep its levels, or with activations='float'"
            )
        if family is not None and not any(isinstance(module, CompactLinear) for module in model.modules()):
            compact(model)
        floats = request.activations == "float"
        make_portable(model, {}, "float", lambda layer, *_: TokenLinear(layer, floats))
        if family is None or family.interface:
            model.set_attn_implementation("eager")
        program = _lowered(_traced(_Traced(model, request.inputs)))
        (folder / "model.pte").write_bytes(program)
        save_plain_config(model, folder)


class TokenLinear(nn.Module):
    """A packed linear layer in the operators that XNNPACK takes for a product of integers.

    Args:
        layer: packed.
        floats: whether its input stays float, and with that its weight.
    """

    def __init__(self, layer: PackedLinear, floats: bool):
        super().__init__()
        self.shift, self.divisor = layer.input_shift, layer.input_scale
        matrix = IntegerMatrix.of(layer, offsets=False)
        self.out_features, self.in_features = matrix.levels.shape
        self.register_buffer("bias", matrix.bias)
        self.floats = floats or layer.input_quantizer is None
        if self.floats:
            self.register_buffer("weight", layer.weight.detach().float().contiguous())
            return
        narrow = bool((matrix.levels >= -8).all() and (matrix.levels <= 7).all()) and self.in_features % 2 == 0
        self.low, self.high = (-8, 7) if narrow else (-128, 127)
        self.register_buffer("levels", matrix.levels.contiguous())
        self.register_buffer("scale", matrix.scale.contiguous())
        self.register_buffer("zero", torch.zeros(self.out_features, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        x = shift_and_scale(x, self.shift, self.divisor)
        if self.floats:
            return F.linear(x, self.weight, self.bias)
        operators = torch.ops.quantized_decomposed
        weight = operators.dequantize_per_channel(
            self.levels, self.scale, self.zero, 0, self.low, self.high, torch.int8
        )
        scale, zero = operators.choose_qparams_per_token_asymmetric(x, torch.int8)
        codes = operators.quantize_per_token(x, scale, zero, -128, 127, torch.int8)
        x = operators.dequantize_per_token(codes, scale, zero, -128, 127, torch.int8, torch.float32)
        return F.linear(x, weight, self.bias)


def _traced(model: _Traced) -> Any:
    """The program of torch, for one text of any length."""
    import executorch.exir  # noqa: F401  registers the operators

    config = body_of(model.model).config
    most = min(getattr(config, "max_position_embeddings", MOST_TOKENS) - first_position(config), MOST_TOKENS)
    tokens = torch.export.Dim("tokens", min=2, max=most)
    example = tuple(one[:1] for one in model.example(EXAMPLE_TOKENS))
    with torch.no_grad(), warnings.catch_warnings(), _broadcast_masks():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(model, example, dynamic_shapes=(tuple({1: tokens} for _ in example),))
        except Exception as error:  # of whatever kind the tracer has
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ValueError(
                f"torch.export cannot trace {type(model.model).__name__} ({reason}): export it as 'onnx' or 'dense'"
            ) from error


def _lowered(program: Any) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            edge = to_edge_transform_and_lower(
                program,
                partitioner=[XnnpackPartitioner()],
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
            )
            return edge.to_executorch().buffer
        except Exception as error:  # of whatever kind its passes have
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ValueError(f"ExecuTorch cannot lower this model ({reason}): export it as 'onnx'") from error
