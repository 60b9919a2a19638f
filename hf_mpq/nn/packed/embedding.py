"""The packed embedding table and the decoder that shares it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core import MatrixStorage
from .matrix import PackedMatrix
from .module import PackedModule


class PackedEmbedding(PackedMatrix):
    """Twin of `MPQEmbedding`: decodes only the rows that are looked up. Ids outside the table are an IndexError."""

    def __init__(
        self,
        stored: MatrixStorage,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
        padding_idx: int | None = None,
        scalar_embed_scale: float = 1.0,
    ):
        super().__init__(stored, dtype, device)
        self.scalar_embed_scale = scalar_embed_scale
        self.num_embeddings, self.embedding_dim = stored.layout.shape
        self.padding_idx = padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        lookup = self.in_place()
        found = self._decoded(ids) if lookup is None else lookup(ids)
        return found if self.scalar_embed_scale == 1 else found * self.scalar_embed_scale

    def _decoded(self, ids: Tensor) -> Tensor:
        rows, position = torch.unique(ids, return_inverse=True)
        return F.embedding(position, self.decode_rows(rows).to(self.compute_dtype))

    def decode_rows(self, rows: Tensor) -> Tensor:
        """Float32 values of some rows, `(len(rows), embedding_dim)`.

        `index_select` refuses rows outside the table, on a GPU too, without waiting for it.
        """
        stored = self.stored
        if stored.layout.axis == 1 or stored.kept or stored.length != stored.layout.line_length:
            return self.decode().index_select(0, rows)
        values = torch.zeros(len(rows), stored.length, dtype=torch.float32, device=rows.device)
        floats, planes = self.group_floats(), self.code_planes()
        line_floats = self.line_floats().index_select(0, rows)
        for bits, lines in self.lines_by_precision().items():
            place = torch.searchsorted(lines, rows).clamp(max=len(lines) - 1)
            here = lines[place] == rows
            of_line = floats[bits][line_floats[here]]
            values[here] = self.values(planes[bits][:, place[here]], of_line, stored.length)
        return values

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, rows={dict(self.stored.lines)}"


class PackedTiedLinear(PackedModule):
    """Twin of `MPQTiedLinear`: multiplies with the packed table; its bias is an ordinary parameter.

    Where what is in place of the table's decoding keeps its `weight`, that is multiplied with.
    """

    def __init__(self, embedding: PackedEmbedding, bias: nn.Parameter | None):
        super().__init__(embedding.compute_dtype, embedding.anchor.device)
        self._shared = (embedding,)  # in a tuple, so that it is no submodule
        self.out_features, self.in_features = embedding.stored.layout.shape
        self.bias = bias

    @property
    def embedding(self) -> PackedEmbedding:
        """The table's owner."""
        return self._shared[0]

    @property
    def weight(self) -> Tensor:
        """The decoded table."""
        return self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        kept = getattr(self.embedding.in_place(), "weight", None)
        if kept is None and self.embedding.device.type == "meta" and not x.is_meta:
            raise RuntimeError(
                "the decoder reads the word table, which is offloaded at this point: leave the codes "
                "where they are (offload_buffers=False), or map the embeddings to a device"
            )
        return F.linear(x, self.weight if kept is None else kept, self.bias)
