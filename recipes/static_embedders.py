"""Embedders that run no encoder, a vector for each word piece and their mean: model2vec of a model, and wordllama."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from torch import nn
from transformers import PreTrainedTokenizerBase


def model2vec(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, dims: int | None = None, dtype: str = "float32"
) -> Any:
    """What the model says of each word piece alone, as model2vec's `distill` does.

    Args:
        model: the encoder; tokenizer: its.
        dims: principal components that are kept; None keeps all dimensions.
        dtype: of the table, `"float32"`, `"float16"` or `"int8"`.

    Returns:
        A `model2vec.StaticModel`; its table is `embedding`, `(word pieces, dims)`.
    """
    from model2vec import StaticModel
    from model2vec.quantization import DType, quantize_embeddings
    from tokenizers import Tokenizer

    table = _alone(model, tokenizer)
    table = table - table.mean(0) if dims else table
    if dims:
        directions = torch.linalg.eigh(table.double().T @ table.double()).eigenvectors[:, -dims:].flip(1)
        table = table @ directions.float()
    ranks = torch.arange(len(table)) + 1
    table = table * torch.log1p(ranks).unsqueeze(1)  # Zipf's law: frequent words come first, and say less
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return StaticModel(quantize_embeddings(table.numpy(), DType(dtype)), plain, normalize=True)


@torch.inference_mode()
def _alone(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """`(word pieces, hidden)`: each between the two special tokens, and the mean of the three."""
    start, end, vectors = tokenizer.cls_token_id, tokenizer.sep_token_id, []
    for ids in torch.arange(len(tokenizer)).split(1024):
        row = torch.stack([torch.full_like(ids, start), ids, torch.full_like(ids, end)], 1)
        vectors.append(model(input_ids=row).last_hidden_state.mean(1))
    return torch.cat(vectors)


def wordllama() -> Any:
    """The table that its package brings, 256 dimensions; nothing is downloaded."""
    import wordllama as package

    return package.WordLlama.load(cache_dir=Path(package.__file__).parent, disable_download=True)


def in_sentence_transformers(encode: Callable[[list[str]], np.ndarray], dims: int) -> SentenceTransformer:
    """A pipeline whose vectors are `encode`'s, so that its evaluators can score it."""
    return SentenceTransformer(modules=[_Encoder(encode, dims)], device="cpu")


class _Encoder(InputModule):
    """Texts to vectors, `(texts, dims)` float32."""

    def __init__(self, encode: Callable[[list[str]], np.ndarray], dims: int):
        super().__init__()
        self._encode, self._dims = encode, dims

    def preprocess(self, inputs: list[str], *given: Any, **also: Any) -> dict[str, torch.Tensor]:
        """The vectors already."""
        return {"vectors": torch.from_numpy(np.asarray(self._encode(list(inputs)), np.float32))}

    tokenize = preprocess

    def forward(self, features: dict[str, torch.Tensor], **_: Any) -> dict[str, torch.Tensor]:
        return {**features, "sentence_embedding": features["vectors"]}

    def get_embedding_dimension(self) -> int:
        return self._dims

    get_sentence_embedding_dimension = get_embedding_dimension

    def save(self, output_path: str, *given: Any, **also: Any) -> None:
        raise NotImplementedError("this pipeline is for a comparison; save the static model itself")
