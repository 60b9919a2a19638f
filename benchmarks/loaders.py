"""How engines come out of their files: each loader gives a function from batch to logits.

python benchmarks/loaders.py LOADING    # as JSON: what loading takes; see `Loading`
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_loading import in_fresh_process, measure
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

import hf_mpq
from hf_mpq.core import Registry
from hf_mpq.core.inputs import INPUTS

Predict = Callable[[Mapping[str, Tensor]], np.ndarray]
LOADERS: Registry[Callable[..., Predict]] = Registry("loader")
MODEL = "transformers.models.bert.modeling_bert"
"""What the first model imports."""
RUNTIMES = {
    "ort": ("onnxruntime",),
    "openvino": ("openvino",),
    "torch": (MODEL, "torch._dynamo"),
    "ours": (MODEL, "hf_mpq.plugin.quantizer", "hf_mpq.runtime.native", "hf_mpq.runtime.int8"),
    "ctranslate2": ("ctranslate2", MODEL),
}
"""What is imported before the clock starts: all that loading and a first pass import."""


@dataclass(frozen=True)
class Loading:
    """How an engine comes out of its files, in this process or in another.

    Attributes:
        kind: of `LOADERS`.
        path: file or folder.
        threads: of the CPU.
        options: of that loader.
    """

    kind: str
    path: str
    threads: int
    options: Mapping[str, Any]

    def load(self) -> Predict:
        """The function."""
        return LOADERS[self.kind](Path(self.path), self.threads, **self.options)

    def measured(self) -> dict[str, float]:
        """Seconds and memory of it in a fresh process; see `bench_loading.measure`. Imports do not count."""
        return in_fresh_process(__file__, json.dumps(asdict(self)))


def _torch(model: nn.Module) -> Predict:
    def predict(batch: Mapping[str, Tensor]) -> np.ndarray:
        with torch.inference_mode():
            return model(**batch).logits.float().numpy()

    return predict


@LOADERS.register("torch")
def load_torch(path: Path, threads: int, compiled: bool = False) -> Predict:
    """A checkpoint, or a whole model that was saved; `compiled` with dynamic shapes."""
    whole = path.suffix == ".pt"
    model = torch.load(path, weights_only=False) if whole else AutoModelForSequenceClassification.from_pretrained(path)
    return _torch(torch.compile(model.eval(), dynamic=True) if compiled else model.eval())


@LOADERS.register("ours")
def load_ours(path: Path, threads: int, attention: str, backend: str = "cpu-int8") -> Predict:
    """A packed folder; `attention` is the type that attention multiplies in."""
    model = AutoModelForSequenceClassification.from_pretrained(path)
    return _torch(hf_mpq.prepare(model, backend, getattr(torch, attention)))


@LOADERS.register("ctranslate2")
def load_ctranslate2(path: Path, threads: int) -> Predict:
    """A converted encoder, whose padding it removes, and the checkpoint's head by torch."""
    import ctranslate2

    encoder = ctranslate2.Encoder(str(path / "encoder"), device="cpu", intra_threads=threads, compute_type="int8")
    head = AutoModelForSequenceClassification.from_pretrained(path).classifier.eval()

    def predict(batch: Mapping[str, Tensor]) -> np.ndarray:
        lengths = batch["attention_mask"].sum(1).int().numpy()
        given = (ctranslate2.StorageView.from_array(one) for one in (batch["input_ids"].int().numpy(), lengths))
        with torch.inference_mode():
            return head(torch.from_numpy(np.array(encoder.forward_batch(*given).pooler_output))).numpy()

    return predict


@LOADERS.register("ort")
def load_ort(path: Path, threads: int) -> Predict:
    """An ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.x64quantprecision", "1")  # without VNNI, sums would be clipped
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda batch: session.run(None, {name: batch[name].numpy() for name in names})[0]


@LOADERS.register("openvino")
def load_openvino(path: Path, threads: int, static: bool = False, **hints: str) -> Predict:
    """An OpenVINO file in a folder; `static`: compiled for one batch and length, and anew at another."""
    import openvino

    (file,) = path.glob("*.xml")
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **hints}
    model = openvino.Core().read_model(file)
    names = [one.any_name for one in model.inputs]

    @lru_cache(maxsize=1)
    def compiled(*shape: int):
        if static:
            model.reshape({name: list(shape) for name in names})
        return openvino.compile_model(model, "CPU", options)

    if not static:
        compiled()

    def predict(batch: Mapping[str, Tensor]) -> np.ndarray:
        shape = batch["input_ids"].shape if static else ()
        return compiled(*shape)({name: batch[name].numpy() for name in names})[0]

    return predict


def load_once(words: str) -> None:
    """Load an engine and print seconds and memory; runs in its own process."""
    loading = Loading(**json.loads(words))
    torch.set_num_threads(loading.threads)
    for name in RUNTIMES[loading.kind]:
        import_module(name)
    ids = torch.ones(1, 32, dtype=torch.long)
    batch = dict(zip(INPUTS, (ids, ids, torch.zeros_like(ids))))
    print(json.dumps(measure(lambda: partial(loading.load(), batch))))


if __name__ == "__main__":
    load_once(sys.argv[1])
