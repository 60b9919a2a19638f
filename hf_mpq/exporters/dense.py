"""A float checkpoint of a standard configuration, without the feed-forward rows that no layer needs."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..core import Link
from ..nn import absolute_name, dequantize_modules, family_of, relative_name
from ..nn.packed import PackedMatrix
from .base import EXPORTERS, Exporter, ExportRequest
from .configs import forget_quantization

WIDTHS = ("intermediate_size", "hidden_dim")
"""What configurations call the number of feed-forward rows."""


@EXPORTERS.register("dense")
class DenseExporter(Exporter):
    """An ordinary float32 checkpoint.

    A standard configuration has one feed-forward width for all layers, so it gets that of the widest layer; the others
    are filled up with rows that give zero. Heads that were removed stay, as zeros, since such a configuration ties
    their number to their width.
    """

    integers = False
    standard = True

    @classmethod
    def write(cls, model: nn.Module, folder: Path, request: ExportRequest) -> None:
        family = family_of(model)
        packed = {
            relative_name(model, name): module
            for name, module in model.named_modules()
            if isinstance(module, PackedMatrix)
        }
        links = (
            []
            if family is None
            else [
                link
                for link in family.links(model)
                if link.kind in ("pointwise", "gated")
                and link.consumer in packed
                and all(block.name in packed for block in link.blocks)
            ]
        )
        live = [packed[link.consumer].column_flags() for link in links]
        dequantize_modules(model)
        forget_quantization(model)
        if links:
            _narrow(model, links, live)
        model.save_pretrained(folder)


def _narrow(model: nn.Module, links: list[Link], live: list[Tensor]) -> None:
    """Cut every layer's feed-forward to the width of the widest, in place."""
    width = max(max(int(columns.sum()) for columns in live), 1)
    attribute = next((name for name in WIDTHS if getattr(model.config, name, None) == len(live[0])), None)
    if attribute is None or any(len(columns) != len(live[0]) for columns in live) or width == len(live[0]):
        return
    for link, columns in zip(links, live):
        kept = torch.sort(torch.argsort(columns.int(), descending=True, stable=True)[:width]).values
        producer = model.get_submodule(absolute_name(model, link.blocks[0].name))
        rows = torch.cat([block.start + kept for block in link.blocks])
        _take_rows(producer, rows)
        consumer = model.get_submodule(absolute_name(model, link.consumer))
        consumer.weight, consumer.in_features = nn.Parameter(consumer.weight.data[:, kept].contiguous()), width
    setattr(model.config, attribute, width)


def _take_rows(layer: nn.Linear, rows: Tensor) -> None:
    layer.weight, layer.out_features = nn.Parameter(layer.weight.data[rows].contiguous()), len(rows)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.data[rows].contiguous())
