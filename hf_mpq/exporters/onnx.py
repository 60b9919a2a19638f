"""ONNX files with integer weights."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import TOKENIZER_MAPPING, PretrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from ..core.inputs import INPUTS
from ..nn import family_of
from ..runtime import CompactLinear, compact
from .base import EXPORTERS, Exporter, ExportRequest
from .configs import save_plain_config
from .onnx_small import shrink_onnx
from .portable import PortableLinear, make_portable
from .ranges import static_grids

TRACED_OPSET = 20
"""The newest that the tracing exporter of torch writes."""
LEVELS, INT64 = (2, 3), 7
"""ONNX' numbers for uint8 and int8, and for int64."""
OLDEST_TRACED = "5.9"
"""The first transformers whose attention masks can be traced with sizes that are tensors."""


@EXPORTERS.register("onnx")
class OnnxExporter(Exporter):
    """`model.onnx`, with dynamic batch and length, and `config.json`.

    Attributes:
        file: of the model in the folder.
    """

    packages = ("onnx",)
    transformers = OLDEST_TRACED
    extra = "onnx"
    file = "model.onnx"

    @classmethod
    def write(cls, model: nn.Module, folder: Path, request: ExportRequest) -> None:
        place = folder / cls.file
        place.parent.mkdir(exist_ok=True)
        write_onnx(model, place, request)
        save_plain_config(model, folder)


@EXPORTERS.register("transformers.js")
class TransformersJsExporter(OnnxExporter):
    """The same as transformers.js looks for it: the file that it takes with `dtype: "q8"`, its default in browsers."""

    file = "onnx/model_quantized.onnx"


def write_onnx(
    model: nn.Module,
    file: Path,
    request: ExportRequest,
    small: bool = True,
    linear: Callable = PortableLinear,
    domains: Mapping[str, int] | None = None,
) -> None:
    """Trace a packed model, which this changes, and write one file.

    Args:
        small: constants in the bits that they need.
        linear: what becomes of a packed linear layer, as in `make_portable`.
        domains: versions of what it takes beside ONNX' own operators.
    """
    import onnx

    family = family_of(model)
    if family is not None and family.untraced is not None:
        raise ValueError(
            f"{model.config.model_type!r} models have no graph: {family.untraced}; export it as 'dense' or "
            "'compressed-tensors'"
        )
    grids = static_grids(model, request.batches) if request.activations == "static" else {}
    if family is not None and not any(isinstance(module, CompactLinear) for module in model.modules()):
        compact(model)
    make_portable(model, grids, request.activations, linear)
    if family is None or family.interface:
        model.set_attn_implementation("eager")
    traced = _Traced(model, request.inputs)
    example = traced.example(9)
    with torch.no_grad(), warnings.catch_warnings(), _broadcast_masks():
        warnings.simplefilter("ignore")  # about shapes that the trace takes for constants, and about the exporter's age
        outputs = traced.output_names(example)
        torch.onnx.export(
            traced,
            example,
            str(file),
            input_names=traced.names,
            output_names=outputs,
            opset_version=TRACED_OPSET,
            dynamic_axes=_axes(traced, outputs),
            dynamo=False,
            do_constant_folding=False,
            custom_opsets=domains,
        )
    graph = onnx.load(str(file))
    zeros = _zero_points(graph)
    if small:
        shrink_onnx(graph)
    _name_zero_points(graph, zeros)
    _read_apart(graph)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(file))


def _zero_points(graph) -> dict[str, tuple[int, int]]:
    """Of every matrix with a scale per channel and no zero point, by the name of its values: type of its levels, and
    channels."""
    known = {tensor.name: tensor for tensor in graph.graph.initializer}
    made = {name: node for node in graph.graph.node for name in node.output}

    def constant(name: str):
        while name not in known and name in made and made[name].op_type in ("Identity", "Reshape", "Transpose"):
            name = made[name].input[0]
        return known.get(name)

    found = {}
    for node in graph.graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 2:
            levels, scale = map(constant, node.input)
            if levels is not None and scale is not None:
                found[node.output[0]] = levels.data_type, prod(scale.dims)
    return found


def _name_zero_points(graph, zeros: Mapping[str, tuple[int, int]]) -> None:
    """Write zero points that are 0 anyway, each its own: ONNX Runtime replaces them where `session.x64quantprecision`
    makes it turn signed weights into unsigned ones, on CPUs whose sums of 8-bit products saturate."""
    from onnx import helper

    for node in graph.graph.node:
        if node.output[0] in zeros:
            name, (kind, count) = f"{node.output[0]}_zero_point", zeros[node.output[0]]
            graph.graph.initializer.append(helper.make_tensor(name, kind, [count], [0] * count))
            node.input.append(name)


def _read_apart(graph) -> None:
    """Give all but the first reader of levels that are shared, as ALBERT's are, a reshape to the shape that they have:
    where ONNX Runtime makes signed weights unsigned it would replace them once for each, and fail. It removes an
    Identity before."""
    from onnx import helper

    levels = {one.name: list(one.dims) for one in graph.graph.initializer if one.data_type in LEVELS}
    taken: set[str] = set()
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    for node in nodes:
        place = {"DequantizeLinear": 0, "MatMulInteger": 1}.get(node.op_type)
        name = node.input[place] if place is not None else None
        if name in taken:
            made = f"{node.output[0]}_levels"
            shape = helper.make_tensor(f"{made}_shape", INT64, [len(levels[name])], levels[name])
            graph.graph.initializer.append(shape)
            graph.graph.node.append(helper.make_node("Reshape", [name, shape.name], [made]))
            node.input[place] = made
        elif name in levels:
            taken.add(name)
        graph.graph.node.append(node)


class _Traced(nn.Module):
    """A model whose inputs are given in order, and whose outputs are a plain tuple.

    Args:
        model: what to trace.
        given: inputs that its tokenizer gives; None where that is not known.
    """

    def __init__(self, model: nn.Module, given: Sequence[str] | None):
        super().__init__()
        self.model = model
        known = inspect.signature(model.forward).parameters
        given = _given_by_the_family(model.config) if given is None else given
        types = getattr(model.config, "type_vocab_size", 0) > 1 and "token_type_ids" in given
        self.names = [name for name in INPUTS if name in known and (name != "token_type_ids" or types)]
        family = family_of(model)
        self.own = dict(family.inputs) if family is not None else {}
        self.names += [name for name in self.own if name in known]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(**dict(zip(self.names, inputs)), return_dict=True)
        return tuple(value for value in outputs.values() if isinstance(value, Tensor))

    def example(self, tokens: int) -> tuple[Tensor, ...]:
        """Inputs in two rows, the second with padding."""
        ids = torch.arange(2 * tokens).view(2, tokens) % (self.model.config.vocab_size - 1) + 1
        mask = torch.ones_like(ids)
        mask[1, -3:] = 0
        values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        for name, size in self.own.items():
            count = getattr(self.model.config, size) if isinstance(size, str) else size
            values[name] = torch.zeros_like(ids) if count is None else ids.new_zeros(*ids.shape, count)
        return tuple(values[name] for name in self.names)

    def output_names(self, example: tuple[Tensor, ...]) -> list[str]:
        """Names of the outputs, as the model calls them."""
        outputs = self.model(**dict(zip(self.names, example)), return_dict=True)
        return [name for name, value in outputs.items() if isinstance(value, Tensor)]


def _given_by_the_family(config: PretrainedConfig) -> Sequence[str]:
    """What its own tokenizer gives; all there is where that is not known."""
    found = TOKENIZER_MAPPING.get(type(config), None)
    kinds = found if isinstance(found, tuple) else (found,)
    return next((kind.model_input_names for kind in kinds if kind is not None), INPUTS)


@contextmanager
def _broadcast_masks() -> Iterator[None]:
    """While this holds, masks of windows of a model's own are made by broadcasting, for `vmap` cannot be traced."""
    made = ALL_MASK_ATTENTION_FUNCTIONS["eager"]

    def broadcast(*args, **kwargs):
        return made(*args, **{**kwargs, "use_vmap": False})

    ALL_MASK_ATTENTION_FUNCTIONS["eager"] = broadcast
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS["eager"]


def _axes(traced: _Traced, outputs: list[str]) -> dict:
    """Names of what differs from batch to batch; in outputs, sizes that another length changes."""
    axes = {name: {0: "batch", 1: "tokens"} for name in traced.names}
    for name, value, longer in zip(outputs, traced(*traced.example(9)), traced(*traced.example(10))):
        sizes = enumerate(zip(value.shape, longer.shape))
        axes[name] = {0: "batch"} | {axis: "tokens" for axis, (size, other) in sizes if size != other}
    return axes
