"""A prepared model as plain data for the kernel."""

from ctypes import Array, byref, c_int32
from typing import Any

import torch
from torch import Tensor, nn

from ...nn import AttentionQuantizers, PackedEmbedding, PackedLinear, family_of
from ...nn.attention import QuantizedDropout
from ...nn.families import Family
from ...nn.integers import IntegerMatrix
from ...nn.naming import absolute_names
from ..int8.native import grid_values
from ..later import Deferred
from ..lookup import IntegerLookup
from . import structures
from .fit import NONLINEARITIES, Unfit, multiplies
from .forms import FORMS
from .library import library
from .planes import StoredRows
from .positions import Positions

MOST_BITS = 6
"""On average over the rows of a matrix: above, an int8 copy is faster by more than it is larger."""


class Plan(Positions):
    """An encoder of the kernel.

    Attributes:
        form: of its family.
        modules: those that it was made of.
        hidden: width of its outputs.

    Args:
        model: whose tables are prepared.
        body: its encoder.
        name: of the backend that they are prepared for.
        bfloat16: whether attention multiplies in it, where the machine does.
        instructions: which set of them runs it; default: the fastest that this machine has.

    Raises:
        Unfit: the kernel cannot run it, with the reason.
    """

    def __init__(
        self, model: nn.Module, body: nn.Module, name: str, instructions: str | None = None, bfloat16: bool = False
    ):
        self.form, self.hidden = FORMS[body.config.model_type], body.config.hidden_size
        self.modules: list[nn.Module] = []
        self._body, self._name, self._alive, self._kept = body, name, [], []
        self._blocks: list[Array] = []
        family, absolute = family_of(model), absolute_names(model)
        layers = [self._layer(model.get_submodule(absolute(one)), family) for one in family.layer_prefixes(model)]
        order = _order(body.config, family, len(layers))
        described = structures.Encoder(hidden=self.hidden, layers=len(order), distinct_layers=len(layers))
        described.bfloat16 = bfloat16
        described.norm_first = self.form.final_norm is not None
        if self.form.final_norm is not None:
            described.final_norm = self._norm(body, self.form.final_norm)
        described.distinct = (structures.Layer * len(layers))(*layers)
        described.order = (c_int32 * len(order))(*order)
        self._embeddings(described)
        self._relative(described)
        self._turns(described)
        self._distances(described)
        self.pooled = self._pooler(described)
        self._drop = library().hf_mpq_drop
        self.handle = library().hf_mpq_make(byref(described), None if instructions is None else instructions.encode())
        if not self.handle:
            raise Unfit("its weights find no memory, or this machine does not have these instructions")
        self._alive = self._kept  # all else was copied
        self._let_stand_back()
        self._where = [values.data_ptr() for values in self._kept]

    def _let_stand_back(self) -> None:
        """What the layers are prepared with is made where the original forward runs, and not at once."""
        for module in self.modules:
            if isinstance(module, PackedLinear):
                product = module.prepared.get(self._name)
                if isinstance(product, Deferred):
                    product.stands_back = True

    def __del__(self):
        if getattr(self, "handle", None):
            self._drop(self.handle)

    @property
    def bytes(self) -> int:
        """That the kernel holds, beside what the model does."""
        tables = [values for values in self._kept if values.dtype != torch.uint8]
        return library().hf_mpq_bytes(self.handle) + sum(values.nbytes for values in tables)

    def moved(self) -> bool:
        """Whether what is read where it lies has gone to another place, as to memory shared with other processes."""
        return [values.data_ptr() for values in self._kept] != self._where

    def _module(self, parent: nn.Module, name: str) -> nn.Module:
        found = parent.get_submodule(name)
        self.modules.append(found)
        return found

    def _pointer(self, values: Tensor | None, keep: bool = False) -> int | None:
        """Of values that stay where they are until the encoder is made, or as long as it is there."""
        if values is None:
            return None
        values = values.detach().contiguous()
        (self._kept if keep else self._alive).append(values)
        return values.data_ptr()

    def _floats(self, values: Tensor, keep: bool = False) -> int:
        if values.dtype != torch.float32:
            raise Unfit(f"it computes in {values.dtype}")
        return self._pointer(values, keep)

    def _matrices(self, layers: list[PackedLinear]) -> list[structures.Matrix]:
        """Of layers that read the same input, all in planes or none."""
        if any(_least_bits(layer) > MOST_BITS for layer in layers):
            return [self._matrix(layer) for layer in layers]
        rows = [StoredRows.of(layer) for layer in layers]
        if None in rows or max(one.bits for one in rows) > MOST_BITS:
            return [self._matrix(layer) for layer in layers]
        return [self._matrix_in_planes(layer, one) for layer, one in zip(layers, rows)]

    def _matrix(self, layer: PackedLinear) -> structures.Matrix:
        matrix = IntegerMatrix.of(layer)
        floats = [self._pointer(values) for values in (matrix.scale, matrix.offset, matrix.bias)]
        made = structures.Matrix(self._pointer(matrix.levels), *floats, *matrix.levels.shape)
        return self._with_inputs(made, layer)

    def _matrix_in_planes(self, layer: PackedLinear, rows: StoredRows) -> structures.Matrix:
        bias = torch.zeros_like(rows.scale) if layer.bias is None else layer.bias.float()
        floats = [self._pointer(values) for values in (rows.scale, rows.offset, bias)]
        made = structures.Matrix(None, *floats, len(rows.scale), rows.columns)
        made.planes = self._planes(rows)
        return self._with_inputs(made, layer)

    def _with_inputs(self, made: structures.Matrix, layer: PackedLinear) -> structures.Matrix:
        made.input_scale, made.input_shift = self._pointer(layer.input_scale), self._pointer(layer.input_shift)
        return made

    def _planes(self, rows: StoredRows, keep: bool = False) -> structures.Planes:
        self._kept.append(rows.codes)
        blocks = (structures.Block * len(rows.blocks))(*rows.blocks)
        self._blocks.append(blocks)
        return structures.Planes(blocks, self._pointer(rows.places, keep), rows.line)

    def _linear(self, parent: nn.Module, name: str) -> PackedLinear:
        layer = self._module(parent, name)
        if not multiplies(layer):
            raise Unfit(f"{name} has no integers for both its weight and its input")
        return layer

    def _norm(self, parent: nn.Module, name: str) -> structures.Norm:
        norm = self._module(parent, name)
        if isinstance(norm, nn.Identity):
            return structures.Norm()
        bias = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
        return structures.Norm(self._floats(norm.weight), self._floats(bias), norm.eps)

    def _layer(self, layer: nn.Module, family: Family) -> structures.Layer:
        names, config = family.names, self._body.config
        attention = layer.get_submodule(names.attention)
        if any(isinstance(module, AttentionQuantizers | QuantizedDropout) for module in attention.modules()):
            raise Unfit("its attention is quantized")
        attended = [names.query] if names.fused else [names.query, names.key, names.value]
        attend = [self._linear(layer, name) for name in attended]
        if not _read_alike(attend):
            raise Unfit("its queries, keys and values do not shift and scale their inputs alike")
        output, up, down = (self._linear(layer, name) for name in (names.output, names.up, names.down))
        nothing = [structures.Matrix()] * (3 - len(attend))
        matrices = [*self._matrices(attend), *nothing, *(self._matrices([one])[0] for one in (output, up, down))]
        apart = _values(attend[:2]) != _values(attend[2:]) if len(attend) == 3 else False
        grids = [_grid(part) for part in (attend[:2] if apart else attend, [output], [up], [down])]
        norms = [self._norm(layer, name) for name in self.form.norms]
        size = config.hidden_size // config.num_attention_heads
        made = structures.Layer(*matrices, *grids)
        made.value_grid, made.value_apart = _grid(attend[-1:]), apart
        made.attention_norm, made.norm = norms
        made.heads = attend[0].out_features // (3 if names.fused else 1) // size
        made.activation, made.gated = NONLINEARITIES[getattr(config, family.activation)], family.gated
        made.scale, made.turn = (size * self.form.score_terms(config)) ** -0.5, -1
        if self.form.rotary is not None:
            made.turn, made.window = self._kinds.index(layer.attention_type), self._window(layer)
        if self._places is not None:
            made.position_key, made.position_query = self._projected_positions(attention, attend)
        return made

    def _window(self, layer: nn.Module) -> int:
        if layer.attention_type != "sliding_attention":
            return 0
        window = self._body.config.sliding_window
        if window < 1:
            raise Unfit("its tokens read no others")
        return window

    def _table(self, name: str | None) -> structures.Table:
        """As it is stored, where the kernel can read that; otherwise as it is prepared: levels, or floats."""
        if name is None or not _has(self._body, name):
            return structures.Table()
        module = self._module(self._body, name)
        stored = module.prepared.get(self._name) if isinstance(module, PackedEmbedding) else None
        rows = StoredRows.of(module) if isinstance(stored, IntegerLookup) else None
        if rows is not None:
            stored.stands_back = True
            floats = [self._pointer(values, keep=True) for values in (rows.scale, rows.offset)]
            return structures.Table(None, None, *floats, len(rows.scale), self._planes(rows, keep=True))
        if isinstance(stored, IntegerLookup):
            matrix = stored.ready()
            parts = [self._pointer(values, keep=True) for values in (matrix.levels, matrix.scale, matrix.offset)]
            return structures.Table(None, *parts, len(matrix.levels))
        weight = module.weight if stored is None else stored.weight
        return structures.Table(self._floats(weight, keep=True), None, None, None, len(weight))

    def _embeddings(self, described: structures.Encoder) -> None:
        form = self.form
        tables = [self._table(name) for name in (form.words, form.positions, form.types)]
        described.words, described.positions, described.types = tables
        described.embedding_norm, described.norm_last = self._norm(self._body, form.embedding_norm), form.norm_last
        described.width = self.hidden
        if form.projection is not None and _has(self._body, form.projection):
            projection = self._linear(self._body, form.projection)
            described.width = projection.in_features
            (described.projection,), described.projection_grid = self._matrices([projection]), _grid([projection])

    def _pooler(self, described: structures.Encoder) -> int:
        """Values that its pooler gives for a row; 0 where there is none, or one that the kernel leaves to torch."""
        body, form = self._body, self.form
        if form.pool is None or not (_has(body, form.pooler) and _has(body, form.pooled)):
            return 0
        layer = body.get_submodule(form.pooler)
        own = type(body.pooler).__module__.startswith(("transformers.", "hf_mpq."))
        tanh = type(body.get_submodule(form.pooled)) is nn.Tanh
        if not (own and tanh and multiplies(layer)) or grid_values(layer.input_quantizer) is None:
            return 0
        self.modules.append(layer)
        (described.pooler,), described.pooler_grid = self._matrices([layer]), _grid([layer])
        return layer.out_features


def _read_alike(layers: list[PackedLinear]) -> bool:
    """Whether layers do the same to their input first."""
    given = [(layer.input_scale, layer.input_shift) for layer in layers]
    return all(
        one is other if one is None or other is None else torch.equal(one, other)
        for values in given[1:]
        for one, other in zip(given[0], values)
    )


def _values(layers: list[PackedLinear]) -> set:
    return {grid_values(layer.input_quantizer) for layer in layers}


def _grid(layers: list[PackedLinear]) -> structures.Grid:
    found = _values(layers)
    values = found.pop()
    if found or values is None:
        raise Unfit("the inputs of its layers are quantized in a way that the kernel has not")
    return structures.Grid(*values)


def _order(config: Any, family: Family, count: int) -> list[int]:
    """Of each pass, which layer."""
    if family.shared_layers is None:
        return list(range(count))
    groups, passes = getattr(config, family.shared_layers), config.num_hidden_layers
    inner = count // groups
    return [int(i / (passes / groups)) * inner + j for i in range(passes) for j in range(inner)]


def _least_bits(layer: PackedLinear) -> int:
    """Of the codes that are read; 0 where there are none."""
    return min((layer.precision or bits for bits in layer.stored.groups), default=0)


def _has(module: nn.Module, name: str) -> bool:
    for part in name.split("."):
        module = module._modules.get(part)
        if module is None:
            return False
    return True
