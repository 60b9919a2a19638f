"""ONNX files with integer weights."""

import inspect
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ...nn import AttentionQuantizers, family_of
from ...runtime import CompactLinear, compact
from .base import EXPORTERS, Exporter, ExportRequest
from .configs import save_plain_config
from .onnx_small import shrink_onnx
from .portable import make_portable
from .ranges import static_grids

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TRACED_OPSET = 20
"""The newest that the tracing exporter of torch writes."""
OLDEST_TRACED = "5.9"
"""The first transformers whose attention masks can be traced with sizes that are tensors."""


@EXPORTERS.register("onnx")
class OnnxExporter(Exporter):
    """`model.onnx`, with dynamic batch and length, and `config.json`."""

    packages = ("onnx",)
    transformers = OLDEST_TRACED
    extra = "onnx"

    @classmethod
    def write(cls, model: nn.Module, folder: Path, request: ExportRequest) -> None:
        write_onnx(model, folder / "model.onnx", request)
        save_plain_config(model, folder)


def write_onnx(model: nn.Module, file: Path, request: ExportRequest, small: bool = True) -> None:
    """Trace a packed model, which this changes, and write one file; `small`: constants in the bits that they need."""
    import onnx

    if any(isinstance(module, AttentionQuantizers) for module in model.modules()):
        warnings.warn("attention_bits are left out of the export: its attention products are float", stacklevel=4)
    grids = static_grids(model, request.batches) if request.activations == "static" else {}
    if family_of(model) is not None and not any(isinstance(module, CompactLinear) for module in model.modules()):
        compact(model)
    make_portable(model, grids, request.activations)
    if family_of(model) is None or family_of(model).interface:
        model.set_attn_implementation("eager")
    traced = _Traced(model)
    names, example = traced.example()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about shapes that the trace takes for constants, and about the exporter's age
        outputs = traced.output_names(example)
        torch.onnx.export(
            traced, example, str(file), input_names=names, output_names=outputs, opset_version=TRACED_OPSET,
            dynamic_axes=_axes(traced, example, names, outputs), dynamo=False, do_constant_folding=False,
        )  # fmt: skip
    graph = onnx.load(str(file))
    if small:
        shrink_onnx(graph)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(file))


class _Traced(nn.Module):
    """A model whose inputs are given in order, and whose outputs are a plain tuple."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        known = inspect.signature(model.forward).parameters
        types = getattr(model.config, "type_vocab_size", 0) > 0 and model.config.model_type != "roberta"
        self.names = [name for name in INPUTS if name in known and (name != "token_type_ids" or types)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(**dict(zip(self.names, inputs)), return_dict=True)
        return tuple(value for value in outputs.values() if isinstance(value, Tensor))

    def example(self) -> tuple[list[str], tuple[Tensor, ...]]:
        """Names of the inputs, and some: two rows of 9 tokens, the second with padding."""
        ids = torch.arange(18).view(2, 9) % (self.model.config.vocab_size - 1) + 1
        mask = torch.ones_like(ids)
        mask[1, 6:] = 0
        values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        return self.names, tuple(values[name] for name in self.names)

    def output_names(self, example: tuple[Tensor, ...]) -> list[str]:
        """Names of the outputs, as the model calls them."""
        outputs = self.model(**dict(zip(self.names, example)), return_dict=True)
        return [name for name, value in outputs.items() if isinstance(value, Tensor)]


def _axes(traced: _Traced, example: tuple[Tensor, ...], names: list[str], outputs: list[str]) -> dict:
    tokens = example[0].shape[1]
    axes = {name: {0: "batch", 1: "tokens"} for name in names}
    for name, value in zip(outputs, traced(*example)):
        axes[name] = {0: "batch"} | ({1: "tokens"} if value.dim() > 1 and value.shape[1] == tokens else {})
    return axes
