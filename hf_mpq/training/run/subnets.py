"""Sub-nets of the model that a stage trains, quantized as it is, and what they take here."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from ...core import ModelShape, read_json
from ...core.files import write_text
from ...cost.shape_latency import ShapeLatencies
from ...nn import calibrate_activations
from ...nn.elastic import Elastic
from ...nn.reshape import reduced, sizes_of
from ...plugin import pack, quantize
from ...plugin.space import space_of
from ...runs.files import SHAPE_LATENCIES
from ...runtime.shape_timing import FLOAT, Shape, float_shape_latencies, shape_latencies
from ...runtime.timing import example


class StageSubNets:
    """The sub-nets of a quantized model.

    Args:
        model: the super-model, trainable, of fixed precisions.
        folder: of the run, where measured times are kept.
        first: runs a function in the main process before the others go on.
        batch, tokens: of the input that is timed.
        backend: that times it, as of `prepare`, or "float".
    """

    def __init__(
        self,
        model: nn.Module,
        folder: str | Path,
        first: Callable[[Callable[[], None]], None],
        batch: int,
        tokens: int,
        backend: str = "auto",
    ):
        self.model, self.elastic = model, Elastic(model, self._quantized)
        self._file, self._first, self._input = Path(folder) / SHAPE_LATENCIES, first, (batch, tokens)
        self._backend = backend
        self._config = copy.deepcopy(model.config.quantization_config)
        self._config.shape = self._config.assignment = None

    def latencies(
        self, shapes: Sequence[Shape], held_out: Sequence[Shape], shape_of: Callable[[Shape], ModelShape]
    ) -> ShapeLatencies:
        """Measured once in a run, by one process."""

        def measure() -> None:
            if not self._file.exists():
                found = self._measured(shapes, held_out, shape_of)
                write_text(self._file, json.dumps(found.to_dict()))

        self._first(measure)
        return ShapeLatencies.from_dict(read_json(self._file, "remove it, and it is measured again"))

    def _measured(
        self, shapes: Sequence[Shape], held_out: Sequence[Shape], shape_of: Callable[[Shape], ModelShape]
    ) -> ShapeLatencies:
        sizes, (batch, tokens) = sizes_of(self.model), self._input

        def packed(shape: Shape) -> nn.Module:
            small = self._quantized(reduced(self.model, shape_of(shape))).cpu().eval()
            calibrate_activations(small, [example(small, batch, tokens)])
            return pack(small)

        whole = (sizes.layers, sizes.hidden, sizes.rows)

        def plain(shape: Shape) -> nn.Module:
            return reduced(self.model, shape_of(shape)).cpu().eval()

        given = (space_of(self.model), whole, shapes, held_out)
        with torch.random.fork_rng(devices=[]):
            if self._backend == FLOAT:
                return float_shape_latencies(*given, plain, batch, tokens)
            return shape_latencies(*given, packed, batch, tokens, self._backend)

    def _quantized(self, small: nn.Module) -> nn.Module:
        return quantize(small, self._config)
