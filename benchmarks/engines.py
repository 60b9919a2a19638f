"""The engines that `bench_inference.py` compares: each makes files of the same model, which `loaders.py` turns into a
function from batch to logits."""

import copy
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loaders import INPUTS, Loading, Predict
from torch import Tensor, nn

import hf_mpq
from hf_mpq.core import Registry
from hf_mpq.nn.integers import IntegerMatrix
from hf_mpq.runtime.int8.product import ONEDNN, prepacked

FLOOR = "floor: int8 products alone"


@dataclass
class Setting:
    """What every engine is made of.

    Attributes:
        model: the float model.
        packed: the same at 8 bits with fixed ranges; `per_token`: with a range per token; `pruned`: the trained model
            with half of its feed-forward rows and heads, None where there is none.
        batches: real sentences that static ranges are read from.
        folder: for files.
        threads: of the CPU.
    """

    model: nn.Module
    packed: nn.Module
    per_token: nn.Module
    pruned: nn.Module | None
    batches: Sequence[Mapping[str, Tensor]]
    folder: Path
    threads: int


@dataclass
class Engine:
    """What an engine gives.

    Attributes:
        predict: logits of a batch.
        megabytes: (10^6) that its file takes.
        loading: how it is loaded; None where it comes out of no file.
        of: which model of `Setting` it was made of.
    """

    predict: Predict
    megabytes: float
    loading: Loading | None = None
    of: str = "model"


ENGINES: Registry[Callable[[Setting], Engine]] = Registry("engine")
NEEDS = {
    "ort": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "nncf": ("openvino", "nncf"),
    "torchao": ("torchao",),
    "ctranslate2": ("ctranslate2",),
}


def missing(name: str) -> str | None:
    """What has to be installed before an engine can be made."""
    lacking = [
        package
        for word, packages in NEEDS.items()
        if word in name
        for package in packages
        if find_spec(package) is None
    ]
    return f"pip install {' '.join(lacking)}" if lacking else None


def megabytes_of(path: Path) -> float:
    """Of a file, or of all in a folder but configurations and tokenizers."""
    kinds = (".safetensors", ".onnx", ".bin", ".xml", ".pt")
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.suffix in kinds) / 1e6


def _engine(
    setting: Setting, kind: str, path: Path, megabytes: float | None = None, of: str = "model", **options: Any
) -> Engine:
    """What is loaded from files; `megabytes` where they hold more than they need."""
    loading = Loading(kind, str(path), setting.threads, options)
    return Engine(loading.load(), megabytes_of(path) if megabytes is None else megabytes, loading, of)


def _saved(setting: Setting, model: nn.Module, name: str) -> Path:
    """A checkpoint's folder, written once."""
    folder = setting.folder / name
    if not folder.exists():
        model.save_pretrained(folder)
    return folder


def _copy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).eval()


@ENGINES.register("torch fp32")
def torch_fp32(setting: Setting) -> Engine:
    """Eager."""
    return _engine(setting, "torch", _saved(setting, setting.model, "torch-float"))


@ENGINES.register("torch bf16 compiled")
def torch_bf16(setting: Setting) -> Engine:
    """`torch.compile` with dynamic shapes."""
    folder = _saved(setting, _copy(setting.model).to(torch.bfloat16), "torch-bf16")
    return _engine(setting, "torch", folder, compiled=True)


@ENGINES.register("torch dynamic int8")
def torch_dynamic(setting: Setting) -> Engine:
    """`quantize_dynamic` of linear layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(_copy(setting.model), {nn.Linear}, torch.qint8)
    file = setting.folder / "torch-dynamic.pt"
    torch.save(model, file)
    return _engine(setting, "torch", file)


@ENGINES.register("torchao int8 compiled")
def torchao_int8(setting: Setting) -> Engine:
    """W8A8 with a range per token."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model, file = _copy(setting.model), setting.folder / "torchao.pt"
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    for module in model.modules():
        vars(module).pop("extra_repr", None)  # torchao's own cannot be pickled
    torch.save(model, file)
    return _engine(setting, "torch", file, compiled=True)


def float_onnx(setting: Setting) -> Path:
    """The float model's file, made once."""
    file = setting.folder / "float.onnx"
    if not file.exists():
        model = _copy(setting.model)
        model.set_attn_implementation("eager")
        example = tuple(setting.batches[0][name] for name in INPUTS)
        axes = {name: {0: "batch", 1: "tokens"} for name in INPUTS} | {"logits": {0: "batch"}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                example,
                str(file),
                input_names=list(INPUTS),
                output_names=["logits"],
                dynamic_axes=axes,
                opset_version=17,
                dynamo=False,
            )
    return file


@ENGINES.register("ort fp32")
def ort_fp32(setting: Setting) -> Engine:
    """ONNX Runtime, fused by its own optimizer."""
    return _engine(setting, "ort", _fused(setting))


def _fused(setting: Setting) -> Path:
    from onnxruntime.transformers import optimizer

    file, config = setting.folder / "fused.onnx", setting.model.config
    if not file.exists():
        optimized = optimizer.optimize_model(
            str(float_onnx(setting)), "bert", config.num_attention_heads, config.hidden_size
        )
        optimized.save_model_to_file(str(file))
    return file


@ENGINES.register("ort dynamic int8")
def ort_int8(setting: Setting) -> Engine:
    """The fused graph, dynamically quantized."""
    from onnx import TensorProto
    from onnxruntime.quantization import quantize_dynamic

    file = setting.folder / "ort-int8.onnx"
    quantize_dynamic(str(_fused(setting)), str(file), extra_options={"DefaultTensorType": TensorProto.FLOAT})
    return _engine(setting, "ort", file)


@ENGINES.register("openvino bf16")
def openvino_bf16(setting: Setting) -> Engine:
    """Float weights, bfloat16 products where the CPU has them."""
    import openvino

    folder = setting.folder / "ov-float"
    openvino.save_model(openvino.convert_model(float_onnx(setting)), folder / "model.xml")
    return _engine(setting, "openvino", folder, INFERENCE_PRECISION_HINT="bf16")


@ENGINES.register("openvino nncf int8")
def openvino_nncf(setting: Setting) -> Engine:
    """NNCF's static int8 for transformers, calibrated on the same sentences."""
    return _engine(setting, "openvino", _nncf(setting))


@ENGINES.register("openvino nncf int8, static shape")
def openvino_nncf_static(setting: Setting) -> Engine:
    """The same, compiled for each batch and length alone."""
    return _engine(setting, "openvino", _nncf(setting), static=True)


def _nncf(setting: Setting) -> Path:
    """The quantized model's folder, made once."""
    import nncf
    import openvino

    folder = setting.folder / "ov-nncf"
    if folder.exists():
        return folder
    model = openvino.convert_model(float_onnx(setting))
    data = nncf.Dataset(list(setting.batches), lambda batch: {name: batch[name].numpy() for name in INPUTS})
    quantized = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(setting.batches))
    openvino.save_model(quantized, folder / "model.xml")
    return folder


@ENGINES.register("ctranslate2 int8")
def ctranslate2_int8(setting: Setting) -> Engine:
    """int8 weights, a range per token."""
    from ctranslate2.converters import TransformersConverter

    folder = setting.folder / "ctranslate2"
    setting.model.save_pretrained(folder)
    setting.model.base_model.save_pretrained(setting.folder / "body")
    config = json.loads((file := setting.folder / "body" / "config.json").read_text())
    file.write_text(json.dumps({"position_embedding_type": "absolute", **config}))  # which newer transformers leave out
    TransformersConverter(str(setting.folder / "body")).convert(str(folder / "encoder"), quantization="int8")
    return _engine(setting, "ctranslate2", folder, megabytes_of(folder / "encoder"))


def _ours(setting: Setting, what: str, attention: str = "float32", backend: str = "cpu-int8") -> Engine:
    model = getattr(setting, what)
    size = hf_mpq.size_report(model).total_bytes / 1e6
    folder = _saved(setting, model, f"ours-{what}")
    return _engine(setting, "ours", folder, size, what, attention=attention, backend=backend)


@ENGINES.register("ours cpu-int8, fixed ranges")
def ours_static(setting: Setting) -> Engine:
    """Dense."""
    return _ours(setting, "packed")


@ENGINES.register("ours cpu-int8, fixed ranges, bf16 attention")
def ours_static_bf16(setting: Setting) -> Engine:
    """Dense."""
    return _ours(setting, "packed", "bfloat16")


@ENGINES.register("ours cpu-int8, per token")
def ours_per_token(setting: Setting) -> Engine:
    """Dense."""
    return _ours(setting, "per_token")


@ENGINES.register("ours cpu-int8, half pruned")
def ours_pruned(setting: Setting) -> Engine:
    """Trained, half of the feed-forward rows and heads gone."""
    return _ours(setting, "pruned")


@ENGINES.register("ours cpu-native, fixed ranges")
def native_static(setting: Setting) -> Engine:
    """Dense, the whole encoder in one call."""
    return _ours(setting, "packed", backend="cpu-native")


@ENGINES.register("ours cpu-native, fixed ranges, bf16 attention")
def native_static_bf16(setting: Setting) -> Engine:
    """Dense, the whole encoder in one call."""
    return _ours(setting, "packed", "bfloat16", "cpu-native")


@ENGINES.register("ours cpu-native, per token")
def native_per_token(setting: Setting) -> Engine:
    """Dense, the whole encoder in one call."""
    return _ours(setting, "per_token", backend="cpu-native")


@ENGINES.register("ours cpu-native, half pruned")
def native_pruned(setting: Setting) -> Engine:
    """Trained, half of the feed-forward rows and heads gone."""
    return _ours(setting, "pruned", backend="cpu-native")


def _exported(setting: Setting, what: str, name: str, format: str, activations: str | None = None) -> Engine:
    model = getattr(setting, what)
    folder = hf_mpq.export(model, format, setting.folder / name, calibration=setting.batches, activations=activations)
    return _engine(setting, *(("ort", folder / "model.onnx") if format == "onnx" else ("openvino", folder)), of=what)


@ENGINES.register("our export in ort")
def export_onnx(setting: Setting) -> Engine:
    """Dense."""
    return _exported(setting, "packed", "our-onnx", "onnx")


@ENGINES.register("our export in ort, per token")
def export_onnx_per_token(setting: Setting) -> Engine:
    """Dense, with a range for each token as trained."""
    return _exported(setting, "per_token", "our-onnx-per-token", "onnx", "trained")


@ENGINES.register("our export in openvino")
def export_openvino(setting: Setting) -> Engine:
    """Dense."""
    return _exported(setting, "packed", "our-openvino", "openvino")


@ENGINES.register("our export in openvino, half pruned")
def export_openvino_pruned(setting: Setting) -> Engine:
    """Trained, half of the feed-forward rows and heads gone."""
    return _exported(setting, "pruned", "our-openvino-pruned", "openvino")


def encoder_layers(setting: Setting) -> list[hf_mpq.nn.PackedLinear]:
    """Whose products are the floor."""
    return [
        module
        for name, module in setting.packed.named_modules()
        if isinstance(module, hf_mpq.nn.PackedLinear) and ".encoder." in name
    ]


@ENGINES.register(FLOOR)
def floor(setting: Setting) -> Engine:
    """oneDNN's integer products of the encoder, at the model's own shapes, with nothing around them."""
    parts = [(layer.in_features, *prepacked(IntegerMatrix.of(layer))) for layer in encoder_layers(setting)]

    def predict(batch: Mapping[str, Tensor]) -> np.ndarray:
        tokens = batch["input_ids"].numel()
        with torch.inference_mode():
            for width, weight, scale, zeros in parts:
                x = torch.ones(tokens, width, dtype=torch.uint8)
                ONEDNN.qlinear_pointwise(x, 1.0, 0, weight, scale, zeros, None, 1.0, 0, torch.float32, "none", [], "")
        return np.zeros((len(batch["input_ids"]), 1))

    return Engine(predict, float("nan"))
