"""`prepare`: a packed model made ready to serve."""

from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Registry
from ..nn import PackedLinear, family_of
from .compaction import CompactLinear, compact
from .int8 import Int8Product, fuse_layers, restore_layers, unsupported

BACKENDS: Registry[type["Backend"]] = Registry("backend")
AUTOMATIC = ("cpu-int8", "cpu-float", "reference")
"""What `"auto"` tries, in this order."""


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
    """Weights decoded once, to the compute type; activations fake-quantized as trained. As fast as float."""

    name = "cpu-float"

    @classmethod
    def unavailable(cls, model: nn.Module) -> str | None:
        return _not_on_cpu(model)

    @classmethod
    def apply(cls, model: nn.Module) -> None:
        for layer in packed_linears(model):
            layer.product = _FloatProduct(layer)


@BACKENDS.register("cpu-int8")
class CpuInt8(Backend):
    """Integer products by oneDNN; where a compiler is there, whole encoder layers of BERT's shape in one call each."""

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
            layer.product = _FloatProduct(layer) if layer.input_quantizer is None else Int8Product(layer)
        fuse_layers(model)


def prepare(model: nn.Module, backend: str = "auto") -> nn.Module:
    """Make a packed model ready to serve, in place: removable pruned rows and heads leave the products, and a backend
    takes the place of decoding weights in every pass. Saving writes the same packed files as before.

    What was prepared is dropped where it would no longer be true: by moves to another device or type, by copies and by
    `set_precision`; the model then decodes again until it is prepared anew.

    Args:
        model: packed, as `pack` returns it and `from_pretrained` loads it; put in eval mode.
        backend: `"reference"`, `"cpu-float"`, `"cpu-int8"`, or `"auto"`: the last of these that can run it.

    Returns:
        The same model.

    Raises:
        ValueError: for a model that is not packed, or a backend that is unknown or cannot run it, with the reason.
    """
    if not packed_linears(model):
        raise ValueError("prepare needs a packed model: call hf_mpq.pack(model) first, or load a packed one")
    chosen = _chosen(model, backend)
    _undo(model)
    if family_of(model) is not None and not any(isinstance(layer, CompactLinear) for layer in packed_linears(model)):
        compact(model)
    chosen.apply(model.eval())
    return model


def _chosen(model: nn.Module, name: str) -> type[Backend]:
    if name == "auto":
        return next(BACKENDS[one] for one in AUTOMATIC if BACKENDS[one].unavailable(model) is None)
    reason = BACKENDS[name].unavailable(model)
    if reason is not None:
        raise ValueError(f"backend {name!r} cannot run this model here: {reason}")
    return BACKENDS[name]


def _undo(model: nn.Module) -> None:
    restore_layers(model)
    for layer in packed_linears(model):
        layer.product = None


class _FloatProduct:
    def __init__(self, layer: PackedLinear):
        self.weight, self.bias, self.quantizer = layer.weight, layer.bias, layer.input_quantizer

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x if self.quantizer is None else self.quantizer(x), self.weight, self.bias)


def _not_on_cpu(model: nn.Module) -> str | None:
    if any(layer.anchor.device.type != "cpu" for layer in packed_linears(model)):
        return "the model is not on the CPU: call model.cpu() first"
    return None


def packed_linears(model: nn.Module) -> list[PackedLinear]:
    """Packed linear layers of a model."""
    return [module for module in model.modules() if isinstance(module, PackedLinear)]
