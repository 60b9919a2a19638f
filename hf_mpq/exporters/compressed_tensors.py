"""A compressed-tensors checkpoint, which plain transformers loads."""

import json
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..nn import PackedEmbedding, PackedLinear, dequantize_modules, family_of
from ..nn.integers import IntegerMatrix
from .base import EXPORTERS, Exporter, ExportRequest, has_uneven_inputs
from .configs import forget_quantization

WIDTHS = (2, 4, 8)
"""Bits that every version of the package packs alike."""


@EXPORTERS.register("compressed-tensors")
class CompressedTensorsExporter(Exporter):
    """`pack-quantized`: integers of one width for each matrix, with a scale per row.

    The width is the smallest of 2, 4 and 8 bits that holds every row's levels (the half-step grid of 2 bits, ±1 and ±3,
    takes 4). Matrices with offsets, scales per column or a low-rank correction are rounded to 8 bits per row; those
    with an affine input stay float, and embedding tables are float16, for transformers loads no other. Quantized
    activations get a range for each token, whatever they were trained with, unless `activations="float"`.
    """

    packages = ("compressed_tensors",)
    extra = "interop"
    standard = True
    widths: ClassVar[tuple[int, ...]] = WIDTHS
    layout: ClassVar[str] = "pack-quantized"
    symmetric: ClassVar[bool] = False
    """Whether the ranges of activations are."""

    @classmethod
    def write(cls, model: nn.Module, folder: Path, request: ExportRequest) -> None:
        family = family_of(model)
        if family is not None and (family.names.fused or family.initialised_by_name):
            raise ValueError(
                f"transformers reads weights of {model.config.model_type!r} before "
                "compressed-tensors has unpacked them, and fails: export it as 'onnx', 'openvino' or "
                "'dense'"
            )
        if request.activations != "float" and has_uneven_inputs(model):
            raise ValueError(
                "compressed-tensors gives each token a range of even levels, and the inputs of this model have a "
                "learned basis: export it as 'onnx' or 'openvino', which keep its levels, or with activations='float'"
            )
        matrices = {
            name: IntegerMatrix.of(module, offsets=False)
            for name, module in model.named_modules()
            if isinstance(module, PackedLinear) and not module.stored.affine
        }
        tables = [name for name, module in model.named_modules() if isinstance(module, PackedEmbedding)]
        rounded = _rounds_inputs(model) if request.activations != "float" else set()
        dequantize_modules(model)
        forget_quantization(model)
        model.save_pretrained(folder)  # the configuration, and what a head needs beside it
        tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        tied = set(getattr(model, "all_tied_weights_keys", None) or {})
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items() if name not in tied}
        groups: dict[tuple[int, bool], list[str]] = {}
        for name, matrix in matrices.items():
            bits = cls.width(matrix.levels)
            del tensors[f"{name}.weight"]
            tensors.update({f"{name}.{key}": value for key, value in cls.tensors(matrix, bits).items()})
            groups.setdefault((bits, name in rounded), []).append(name)
        tensors.update({f"{name}.weight": tensors[f"{name}.weight"].to(torch.float16) for name in tables})
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        file = folder / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps({**config, "quantization_config": cls.config(model, groups, matrices)}, indent=2))

    @classmethod
    def width(cls, levels: Tensor) -> int:
        """The fewest bits that hold all levels."""
        low, high = int(levels.min()), int(levels.max())
        return next(bits for bits in cls.widths if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1))

    @classmethod
    def tensors(cls, matrix: IntegerMatrix, bits: int) -> dict[str, Tensor]:
        """What is stored of a matrix."""
        from compressed_tensors.compressors import pack_to_int32

        return {
            "weight_packed": pack_to_int32(matrix.levels, bits).contiguous(),
            "weight_scale": matrix.scale.unsqueeze(1).contiguous(),
            "weight_shape": torch.tensor(matrix.levels.shape),
        }

    @classmethod
    def config(cls, model: nn.Module, groups: dict[tuple[int, bool], list[str]], matrices: dict) -> dict:
        """Of the quantization: names by bits, and by whether inputs are rounded."""
        inputs = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True, "symmetric": cls.symmetric}
        weights = {"type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
        layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        return {
            "quant_method": "compressed-tensors",
            "format": cls.layout,
            "quantization_status": "compressed",
            "ignore": [name for name in layers if name not in matrices],
            "config_groups": {
                f"group_{number}": {
                    "targets": names,
                    "format": cls.layout,
                    "input_activations": inputs if rounded else None,
                    "weights": {"num_bits": bits, **weights},
                }
                for number, ((bits, rounded), names) in enumerate(groups.items())
            },
        }


@EXPORTERS.register("w8a8")
class W8A8Exporter(CompressedTensorsExporter):
    """`int-quantized`: every matrix as int8, and inputs rounded to int8 with a symmetric range for each token, the
    scheme that servers call W8A8 and multiply in integers.

    Fewer bits take a byte, too. What else is said of `"compressed-tensors"` holds here.
    """

    widths = (8,)
    layout = "int-quantized"
    symmetric = True

    @classmethod
    def tensors(cls, matrix: IntegerMatrix, bits: int) -> dict[str, Tensor]:
        return {"weight": matrix.levels.contiguous(), "weight_scale": matrix.scale.unsqueeze(1).contiguous()}


def _rounds_inputs(model: nn.Module) -> set[str]:
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, PackedLinear) and module.input_quantizer is not None
    }
