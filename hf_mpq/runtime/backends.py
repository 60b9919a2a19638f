"""What runs a packed model in place of decoding."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Registry
from ..nn import PackedEmbedding, PackedLinear, PackedTiedLinear
from ..nn.packed import activated
from .cuda import PlanesProduct, TensorCoreProduct, kernels_for, lacking
from .int8 import Int8Product, fuse_layers, unsupported, use_native_products
from .later import for_later
from .lookup import prepare_lookup

BACKENDS: Registry[type["Backend"]] = Registry("backend")


class Backend:
    """What runs a packed model.

    Attributes:
        name: the registered name.
    """

    name: str

    @classmethod
    def unavailable(cls, model: nn.Module) -> str | None:
        """Why it cannot run this model here; None where it can."""
        return None

    @classmethod
    def apply(cls, model: nn.Module, attention_dtype: torch.dtype = torch.float32) -> None:
        """Prepare a packed model, in place, beside what it is prepared for already.

        Args:
            attention_dtype: what attention may multiply in; a backend that has no such choice does as the model.
        """


@BACKENDS.register("reference")
class Reference(Backend):
    """Decodes weights in every pass: on every device, with the least memory."""

    name = "reference"


@BACKENDS.register("cpu-float")
class CpuFloat(Backend):
    """Weights decoded once, to the compute type; activations fake-quantized as trained."""

    name = "cpu-float"

    @classmethod
    def unavailable(cls, model: nn.Module) -> str | None:
        return _not_on_cpu(model)

    @classmethod
    def apply(cls, model: nn.Module, attention_dtype: torch.dtype = torch.float32) -> None:
        for layer in packed_linears(model):
            layer.prepared[cls.name] = _FloatProduct(layer)
        _prepare_lookups(model, cls.name)


@BACKENDS.register("cpu-int8")
class CpuInt8(Backend):
    """Integer products by oneDNN; where a compiler is there, whole encoder layers of BERT's shape in one call each, and
    all other products too."""

    name = "cpu-int8"

    @classmethod
    def unavailable(cls, model: nn.Module) -> str | None:
        if all(layer.input_quantizer is None for layer in packed_linears(model)):
            return ("the inputs of its layers are float: train or compress with activation_bits=8, or use "
                    "backend='cpu-float'")  # fmt: skip
        return _not_on_cpu(model) or unsupported()

    @classmethod
    def apply(cls, model: nn.Module, attention_dtype: torch.dtype = torch.float32) -> None:
        for layer in packed_linears(model):
            layer.prepared[cls.name] = (_FloatProduct if layer.input_quantizer is None else Int8Product)(layer)
        _prepare_lookups(model, cls.name)
        fuse_layers(model, attention_dtype)
        use_native_products(model)


@BACKENDS.register("cuda-float")
class CudaFloat(CpuFloat):
    """As cpu-float, on a GPU."""

    name = "cuda-float"

    @classmethod
    def unavailable(cls, model: nn.Module) -> str | None:
        return lacking(_devices(model), integers=False)


@BACKENDS.register("cuda")
class Cuda(Backend):
    """Integer products on tensor cores; for few tokens, codes of few bits unpacked inside the product."""

    name = "cuda"

    @classmethod
    def unavailable(cls, model: nn.Module) -> str | None:
        integers = any(layer.input_quantizer is not None for layer in packed_linears(model))
        return lacking(_devices(model), integers)

    @classmethod
    def apply(cls, model: nn.Module, attention_dtype: torch.dtype = torch.float32) -> None:
        for layer in packed_linears(model):
            kernels, floats = kernels_for(layer.anchor.device), layer.input_quantizer is None
            layer.prepared[cls.name] = (PlanesProduct.of(layer, kernels, _FloatProduct(layer)) if floats else
                                        TensorCoreProduct(layer, kernels))  # fmt: skip
        _prepare_lookups(model, cls.name)


class _FloatProduct:
    """Decodes at its first use, so that it takes no memory where it is never chosen."""

    def __init__(self, layer: PackedLinear):
        self.layer, self.decoded = layer, None

    def __call__(self, x: Tensor) -> Tensor:
        decoded, quantizer = self.decoded, self.layer.input_quantizer
        if decoded is None:
            with for_later():
                decoded = self.decoded = self.layer.weight, self.layer.bias
        return F.linear(x if quantizer is None else quantizer(x), *decoded)


class _DecodedTable:
    """Stands in for the decoding of a table that a decoder multiplies with too; decodes at its first use.

    Attributes:
        weight: the decoded table, kept.
    """

    def __init__(self, table: PackedEmbedding):
        self.table, self.decoded = table, None

    @property
    def weight(self) -> Tensor:
        decoded = self.decoded
        if decoded is None:
            with for_later():
                decoded = self.decoded = self.table.weight
        return decoded

    def __call__(self, ids: Tensor) -> Tensor:
        """`(...)` ids to `(..., width)`, in the compute type."""
        return F.embedding(ids, self.weight)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Inside, in this thread, packed models run that backend. Where a model was not prepared for it (`"auto"` prepares
    for all that can run) its layers decode, as under `"reference"`.

    Raises:
        ValueError: for an unknown name.
    """
    with activated(BACKENDS.name_of(name)):
        yield


def _prepare_lookups(model: nn.Module, name: str) -> None:
    shared = {id(module.embedding) for module in model.modules() if isinstance(module, PackedTiedLinear)}
    for module in model.modules():
        if isinstance(module, PackedEmbedding):
            if id(module) in shared and not module.prepared:
                module.prepared[name] = _DecodedTable(module)
            else:
                prepare_lookup(module, name)


def _not_on_cpu(model: nn.Module) -> str | None:
    if any(layer.anchor.device.type != "cpu" for layer in packed_linears(model)):
        return "the model is not on the CPU: call model.cpu() first"
    return None


def _devices(model: nn.Module) -> set[torch.device]:
    return {layer.anchor.device for layer in packed_linears(model)}


def packed_linears(model: nn.Module) -> list[PackedLinear]:
    """Packed linear layers of a model."""
    return [module for module in model.modules() if isinstance(module, PackedLinear)]
