"""`export`: a packed model as files that other runtimes read."""

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from packaging.version import Version
from torch import nn

from .. import _extras
from ..core import Registry
from ..core.folders import together
from ..nn import AttentionQuantizers, PackedLinear
from ..nn.attention import QuantizedDropout
from ..nn.batches import batches_of
from ..nn.packed import PackedMatrix
from ..nn.pooling import check_pooling
from ..plugin.guard import check_is_model
from ..runtime import use_backend
from ..weights import ActivationQuantizer

EXPORTERS: Registry[type["Exporter"]] = Registry("export format")
_MODEL_FILES = (
    "config.json",
    "adapter_config.json",
    "*.safetensors",
    "pytorch_model*.bin",
    "*.onnx",
    "openvino_*",
    "*.gguf",
    "*.pte",
)
RANGE_CHOICES = ("static", "dynamic", "trained", "float")


@dataclass(frozen=True)
class ExportRequest:
    """What a format may need beyond the model.

    Attributes:
        activations: `"static"` (one range for each tensor, fixed in the file), `"dynamic"` (one for each tensor, found
            in every pass), `"trained"` (what the packed model does: by default a range for each token) or `"float"`.
        batches: example inputs that static ranges are read from; may be empty where the model has its own.
        tokenizer: of the model; None where none was given.
        pooling: how texts become one vector; None where that is left to who runs the file.
    """

    activations: str
    batches: tuple[Mapping, ...]
    tokenizer: Any = None
    pooling: str | None = None

    @property
    def inputs(self) -> Sequence[str] | None:
        """What the tokenizer gives; None where there is none."""
        return getattr(self.tokenizer, "model_input_names", None)


class Exporter(ABC):
    """One format.

    Attributes:
        packages: what must be importable.
        transformers: the oldest version that it works with; empty for any.
        extra: of this package, that installs them.
        integers: whether it stores weights as integers.
        standard: whether its runtime makes the model from the sizes in its config alone.
        pools: whether its files say how a text becomes one vector.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    transformers: ClassVar[str] = ""
    extra: ClassVar[str] = ""
    integers: ClassVar[bool] = True
    standard: ClassVar[bool] = False
    pools: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def write(cls, model: nn.Module, folder: Path, request: ExportRequest) -> None:
        """Write the files.

        Args:
            model: packed, in float32 on the CPU in eval mode; this call may change it.
            folder: exists.
        """


def export(
    model: nn.Module,
    format: str,
    path: str | Path,
    *,
    tokenizer: Any = None,
    calibration: Iterable | None = None,
    activations: str | None = None,
    calibration_examples: int = 128,
    pooling: str | None = None,
) -> Path:
    """Write a packed model in a format that needs no hf_mpq to run.

    - `"onnx"`: `model.onnx` with integer weights and tables, each row in the bits that it needs; runtimes widen them to
      int8 when they load the file. Static activations are `QuantizeLinear`/`DequantizeLinear` pairs, the others
      `MatMulInteger`, behind `DynamicQuantizeLinear` where they are dynamic.
    - `"openvino"`: `openvino_model.xml` and `.bin` made of that graph; no dynamic activations.
    - `"compressed-tensors"`: a checkpoint with one precision for each matrix that plain transformers loads.
    - `"gguf"`: `model.gguf` for llama.cpp: BERT, RoBERTa and ModernBERT with or without a classifier of texts,
      NomicBERT and EuroBERT without.
    - `"executorch"`: `model.pte` for ExecuTorch with XNNPACK, one text at a time; experimental.
    - `"dense"`: a float checkpoint of the smallest standard configuration that holds the model.

    Removable pruned rows and heads are gone from ONNX and OpenVINO files, removable rows from dense ones. Weights are
    exactly the packed ones, but for matrices with a scale per column or a low-rank correction, which are rounded to 8
    bits for each row (dense: never). Activations trained with a range for each token get one for each tensor where they
    are static or dynamic.

    Args:
        model: packed, as `pack` returns it or `from_pretrained` loads it; it stays as it is.
        format: see above.
        path: folder without a model; made where it is not there. `config.json` is written too. All files take their
            places at the end.
        tokenizer: saved beside the model; an ONNX or OpenVINO file asks for the inputs that it gives, without one for
            those that the family's own gives.
        calibration: tokenized rows or batches, for static ranges that the model does not have.
        activations: `"static"`, `"dynamic"`, `"trained"` (as in the packed model, a range for each token as a rule: its
            numbers but for rounding, slower in ONNX Runtime) or `"float"`; by default the model's own static ranges,
            or those found in `calibration`, else as trained; float where the model's are.
        calibration_examples: rows of `calibration` that are used, from the start.
        pooling: `"mean"` or `"cls"`: how a file whose runtime pools (`"gguf"`) makes one vector of a text; None leaves
            it to who runs the file.

    Returns:
        The folder.

    Raises:
        ValueError: for an unknown format, a folder that holds a model, a model that is not packed, activations that
            cannot be, weights that are no integers times a scale in a format of integers, or shapes that no
            configuration gives in a format that needs one.
        ImportError: when the format's package is missing or transformers is too old, with the command that installs it.
    """
    format = EXPORTERS.name_of(format)
    exporter = EXPORTERS[format]
    _refuse_models(Path(path))
    check_is_model(model, "export")
    if not any(isinstance(module, PackedLinear) for module in model.modules()):
        raise ValueError("export needs a packed model: call hf_mpq.pack(model) first, or load a packed folder")
    if refused := unmet(format):
        raise ImportError(refused)
    if exporter.integers:
        _refuse_floats(model, format)
    if exporter.standard:
        _refuse_shapes(model, format)
    twin = copy.deepcopy(model).to("cpu", torch.float32).eval()
    batches = tuple(batches_of(calibration, twin, 16, calibration_examples))
    found = _activations(twin, activations, bool(batches))
    request = ExportRequest(found, batches, tokenizer, None if pooling is None else check_pooling(pooling))
    if any(isinstance(module, AttentionQuantizers | QuantizedDropout) for module in twin.modules()):
        warnings.warn("attention_bits are left out of the export: its attention products are float", stacklevel=2)
    with together(path) as folder:
        with use_backend("reference"):  # what the model was prepared with stands back
            exporter.write(twin, folder, request)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    return Path(path)


def _refuse_floats(model: nn.Module, format: str) -> None:
    """Integers would round what codes of other kinds stand for."""
    for name, matrix in model.named_modules():
        if isinstance(matrix, PackedMatrix) and not matrix.has_integers():
            raise ValueError(
                f"the codes of {name} ({matrix.stored.encoding!r}) stand for no integers times a scale, "
                f"which {format} stores: export it as 'dense'"
            )


def _refuse_shapes(model: nn.Module, format: str) -> None:
    """Files whose config.json gives another shape could not be loaded."""
    config = getattr(model.config, "quantization_config", None)
    for name, shape in (config.shapes if config is not None else {}).items():
        raise ValueError(
            f"{name} has the shape {tuple(shape)}, which its configuration does not give, and {format} is loaded "
            "by that: export it as 'onnx' or 'openvino'"
        )


def _refuse_models(folder: Path) -> None:
    """An export replaces no model: its config.json would take the place of the model's."""
    found = sorted(file.name for kind in _MODEL_FILES for file in folder.glob(kind))
    if found:
        raise ValueError(
            f"{folder} holds a model ({', '.join(found[:3])}), which an export would damage: give another "
            "folder, or remove it first"
        )


def _activations(model: nn.Module, wanted: str | None, calibrated: bool) -> str:
    quantizers = [module.input_quantizer for module in model.modules() if isinstance(module, PackedLinear)]
    quantizers = [quantizer for quantizer in quantizers if quantizer is not None]
    own = bool(quantizers) and all(quantizer.packed_form for quantizer in quantizers)
    if wanted is None:
        return "float" if not quantizers else "static" if own or calibrated else "trained"
    if wanted not in RANGE_CHOICES:
        raise ValueError(f"activations must be one of {', '.join(RANGE_CHOICES)}; got {wanted!r}")
    if wanted == "trained" and (own or not quantizers):
        return "static" if own else "float"
    if wanted == "dynamic" and has_uneven_inputs(model):
        raise ValueError(
            "a range that is found in every pass has even levels, and the inputs of this model a learned basis: leave "
            "activations out, which keeps its levels, or take activations='float'"
        )
    if wanted == "static" and not own and not calibrated:
        raise ValueError(
            "static activations need ranges, which this model does not have: give calibration=<some "
            "tokenized rows>, or leave activations out, which keeps the ranges of training"
        )
    return wanted


def has_uneven_inputs(model: nn.Module) -> bool:
    """Whether some input of a packed model has levels that are no even steps apart."""
    return any(
        module.packed_form and module.grid(torch.empty(0)).levels is not None
        for module in model.modules()
        if isinstance(module, ActivationQuantizer)
    )


def unmet(format: str) -> str | None:
    """What a format needs that is not installed, with the command that installs it; None where all is there."""
    exporter = EXPORTERS[format]
    missing = _extras.unmet(exporter.extra, f"the {format} export", exporter.packages) if exporter.extra else None
    if missing:
        return missing
    if Version(transformers.__version__) < Version(exporter.transformers or "0"):
        return (
            f"the {format} export needs transformers {exporter.transformers} or newer, this is "
            f"{transformers.__version__}: pip install -U transformers"
        )
    return None
