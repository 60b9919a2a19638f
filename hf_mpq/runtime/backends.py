"""What runs a packed model in place of decoding."""

from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Registry
from ..nn import PackedEmbedding, PackedLinear
from .int8 import Int8Product, fuse_layers, unsupported, use_native_products
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
    def apply(cls, model: nn.Module) -> None:
        """Prepare a packed model, in place."""


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
    def apply(cls, model: nn.Module) -> None:
        for layer in packed_linears(model):
            layer.prepared = _FloatProduct(layer)
        _prepare_lookups(model)


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
    def apply(cls, model: nn.Module) -> None:
        for layer in packed_linears(model):
            layer.prepared = _FloatProduct(layer) if layer.input_quantizer is None else Int8Product(layer)
        _prepare_lookups(model)
        fuse_layers(model)
        use_native_products(model)


class _FloatProduct:
    def __init__(self, layer: PackedLinear):
        self.weight, self.bias, self.quantizer = layer.weight, layer.bias, layer.input_quantizer

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x if self.quantizer is None else self.quantizer(x), self.weight, self.bias)


def _prepare_lookups(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, PackedEmbedding):
            prepare_lookup(module)


def _not_on_cpu(model: nn.Module) -> str | None:
    if any(layer.anchor.device.type != "cpu" for layer in packed_linears(model)):
        return "the model is not on the CPU: call model.cpu() first"
    return None


def packed_linears(model: nn.Module) -> list[PackedLinear]:
    """Packed linear layers of a model."""
    return [module for module in model.modules() if isinstance(module, PackedLinear)]
