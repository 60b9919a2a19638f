"""What runs a packed model in place of decoding."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn

from ..core import Registry
from ..nn import PackedEmbedding, PackedLinear, PackedTiedLinear, modules_by_name
from ..nn.packed import activated
from .cuda import PlanesProduct, TensorCoreProduct, kernels_for, lacking
from .decoded import DecodedTable, float_product
from .int8 import Int8Product, fuse_layers, unsupported, use_native_products
from .lookup import prepare_lookup
from .native import built, make_native, paths

BACKENDS: Registry[type["Backend"]] = Registry("backend")
MOST_COLUMNS = (2**31 - 1) // (255 * 128)
"""Of a matrix that integers are multiplied with: more bytes times levels can go beyond a sum of 32 bits."""


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
            layer.prepared[cls.name] = float_product(layer)
        _prepare_lookups(model, cls.name)


@BACKENDS.register("cpu-int8")
class CpuInt8(Backend):
    """Integer products by oneDNN; where a compiler is there, whole encoder layers of BERT's shape in one call each, and
    all other products too."""

    name = "cpu-int8"

    @classmethod
    def unavailable(cls, model: nn.Module) -> str | None:
        return _without_integers(model) or _not_on_cpu(model) or _too_wide(model) or unsupported()

    @classmethod
    def apply(cls, model: nn.Module, attention_dtype: torch.dtype = torch.float32) -> None:
        for layer in packed_linears(model):
            layer.prepared[cls.name] = Int8Product(layer) if multiplies_integers(layer) else float_product(layer)
        _prepare_lookups(model, cls.name)
        fuse_layers(model, attention_dtype)
        use_native_products(model)


@BACKENDS.register("cpu-native")
class CpuNative(Backend):
    """Whole encoders in one call each, by a kernel that is built when the package is installed; what it cannot run, by
    torch's operators. Padding is not computed."""

    name = "cpu-native"

    @classmethod
    def unavailable(cls, model: nn.Module) -> str | None:
        reason = None if built() and paths() else unsupported()  # the kernel has sums of its own for every CPU
        return _without_integers(model) or _not_on_cpu(model) or _too_wide(model) or reason

    @classmethod
    def apply(cls, model: nn.Module, attention_dtype: torch.dtype = torch.float32) -> None:
        exact = unsupported() is None
        for layer in packed_linears(model):
            integers = exact and multiplies_integers(layer)
            layer.prepared[cls.name] = Int8Product(layer) if integers else float_product(layer)
        _prepare_lookups(model, cls.name)
        make_native(model, attention_dtype)


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
        integers = any(multiplies_integers(layer) for layer in packed_linears(model))
        return lacking(_devices(model), integers) or _too_wide(model)

    @classmethod
    def apply(cls, model: nn.Module, attention_dtype: torch.dtype = torch.float32) -> None:
        for layer in packed_linears(model):
            layer.prepared[cls.name] = _product_on_gpu(layer, kernels_for(layer.device))
        _prepare_lookups(model, cls.name)


def _product_on_gpu(layer: PackedLinear, kernels: ModuleType | None) -> Callable[[Tensor], Tensor]:
    if multiplies_integers(layer):
        return TensorCoreProduct(layer, kernels)
    if layer.input_quantizer is None:
        return PlanesProduct.of(layer, kernels, float_product(layer))
    return float_product(layer)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Inside, in this thread, packed models run that backend. Where a model was not prepared for it (`"auto"` prepares
    for all that can run) its layers decode, as under `"reference"`.

    Tasks of asyncio and `asyncio.to_thread` take it along; threads of one's own and `run_in_executor` do not, as with
    every context variable of Python: there, it belongs inside the function that they call.

    Raises:
        ValueError: for an unknown name.
    """
    with activated(BACKENDS.name_of(name)):
        yield


def _prepare_lookups(model: nn.Module, name: str) -> None:
    modules = [module for _, module in modules_by_name(model)]
    shared = {id(module.embedding) for module in modules if isinstance(module, PackedTiedLinear)}
    for module in modules:
        if isinstance(module, PackedEmbedding):
            if id(module) in shared and not module.prepared:
                module.prepared[name] = DecodedTable(module)
            else:
                prepare_lookup(module, name)


def multiplies_integers(layer: PackedLinear) -> bool:
    """Whether both a layer's input and its weight have integers."""
    return layer.input_quantizer is not None and layer.has_integers()


def _without_integers(model: nn.Module) -> str | None:
    if all(layer.input_quantizer is None for layer in packed_linears(model)):
        return (
            "the inputs of its layers are float: train or compress with activation_bits=8, or use backend='cpu-float'"
        )
    if not any(multiplies_integers(layer) for layer in packed_linears(model)):
        return "its codes stand for no integers times a scale: use backend='cpu-float'"
    return None


def _too_wide(model: nn.Module) -> str | None:
    for name, layer in modules_by_name(model):
        if isinstance(layer, PackedLinear) and multiplies_integers(layer) and layer.in_features > MOST_COLUMNS:
            return (
                f"{name} has {layer.in_features} columns, and integer sums of more than {MOST_COLUMNS} do not fit "
                "in 32 bits: use backend='cpu-float' or 'cuda-float'"
            )
    return None


def _not_on_cpu(model: nn.Module) -> str | None:
    if any(layer.device.type != "cpu" for layer in packed_linears(model)):
        return "the model is not on the CPU: call model.cpu() first"
    return None


def _devices(model: nn.Module) -> set[torch.device]:
    return {layer.device for layer in packed_linears(model)}


def packed_linears(model: nn.Module) -> list[PackedLinear]:
    """Packed linear layers of a model."""
    return [module for _, module in modules_by_name(model) if isinstance(module, PackedLinear)]
