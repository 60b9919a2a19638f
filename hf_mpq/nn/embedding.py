"""The trainable embedding table, and the masked-LM decoder that shares it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import WeightSpec
from .matrix import QuantizedMatrix


def scale_of(embedding: nn.Module) -> float:
    """What a table's rows are multiplied by when they are looked up, as Gemma's are; not when they decode."""
    return float(getattr(embedding, "scalar_embed_scale", 1.0))


def can_be_quantized(module: nn.Module | None) -> bool:
    """Whether a module looks up rows of a table, and does no more with them than to multiply them by one number."""
    return isinstance(module, nn.Embedding) and (
        type(module).forward is nn.Embedding.forward or hasattr(module, "scalar_embed_scale")
    )


class ScaledEmbedding(nn.Embedding):
    """A float table whose rows are multiplied by `scalar_embed_scale`."""

    scalar_embed_scale = 1.0

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * self.scalar_embed_scale


class MPQEmbedding(QuantizedMatrix, nn.Embedding):
    """An `nn.Embedding` whose table goes through a `WeightProgram`; only the rows that are looked up are quantized. Ids
    outside the table are an IndexError."""

    bias = None
    scalar_embed_scale = 1.0

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding, spec: WeightSpec) -> "MPQEmbedding":
        """Take over the table of `embedding` (the same object, so ties hold)."""
        if embedding.max_norm is not None or embedding.scale_grad_by_freq or embedding.sparse:
            raise ValueError(
                "embeddings with max_norm, scale_grad_by_freq or sparse gradients cannot be quantized; "
                "name the table in modules_to_not_convert"
            )
        layer = cls(embedding.num_embeddings, embedding.embedding_dim, embedding.padding_idx, device="meta")
        layer.weight = embedding.weight
        layer.scalar_embed_scale = scale_of(embedding)
        layer._attach(spec)
        return layer.train(embedding.training)

    @property
    def num_embeddings(self) -> int:
        """Rows of the table; raises ValueError when a quantized table is given another number."""
        return self._rows

    @num_embeddings.setter
    def num_embeddings(self, rows: int) -> None:
        if "program" in self._modules:
            raise ValueError("a quantized table cannot be resized: load the float model, resize it, then quantize it")
        self._rows = rows

    def forward(self, ids: Tensor) -> Tensor:
        rows, position = torch.unique(ids, return_inverse=True)
        table = self.program.rows(self.weight.float(), rows)
        if self.padding_idx is not None and table.requires_grad:
            table = torch.where((rows == self.padding_idx).unsqueeze(1), table.detach(), table)
        found = F.embedding(position, table.to(self.weight.dtype))
        return found if self.scalar_embed_scale == 1 else found * self.scalar_embed_scale


class MPQTiedLinear(nn.Linear):
    """A decoder tied to an embedding: it multiplies with the fake-quantized table, and keeps its own bias."""

    @classmethod
    def from_linear(cls, linear: nn.Linear, embedding: MPQEmbedding) -> "MPQTiedLinear":
        """Take over the parameters of `linear`; its weight is (or will be) the embedding's."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        layer._shared = (embedding,)  # in a tuple, so that it is no submodule
        return layer.train(linear.training)

    @property
    def embedding(self) -> MPQEmbedding:
        """The table's owner."""
        return self._shared[0]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.embedding.quantized_weight(), self.bias)
