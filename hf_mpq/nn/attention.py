"""Attention with quantized operands and probabilities, for families with and without the attention interface."""

import copy

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from ..core import AttentionSpec
from ..weights import ActivationQuantizer

ATTENTION_NAME = "mpq"


class AttentionQuantizers(nn.Module):
    """Quantizers of query, key, value and probabilities of one attention layer."""

    def __init__(self, spec: AttentionSpec):
        super().__init__()
        self.query = ActivationQuantizer.from_spec(spec.operands)
        self.key = ActivationQuantizer.from_spec(spec.operands)
        self.value = ActivationQuantizer.from_spec(spec.operands)
        self.probabilities = ActivationQuantizer.from_spec(spec.probabilities)

    def update(self) -> None:
        """Once per optimizer step, outside autograd."""
        for quantizer in self.children():
            quantizer.update()

    def frozen(self) -> "AttentionQuantizers":
        """The same with every quantizer in its frozen form."""
        twin = copy.copy(self)
        twin._modules = {name: quantizer.frozen() for name, quantizer in self.named_children()}
        return twin


def mpq_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Attention as `eager` does it, with quantized operands and probabilities.

    Args:
        module: an attention layer with `mpq_attention`, an `AttentionQuantizers`.
        query, key, value: `(batch, heads, tokens, width)`; where there are fewer heads of keys and values, each is read
            by several queries in a row.
        attention_mask: added to the scores.

    Returns:
        Output `(batch, tokens, heads, width)` and probabilities `(batch, heads, tokens, tokens)`.
    """
    quantizers: AttentionQuantizers = module.mpq_attention
    scaling = query.size(-1) ** -0.5 if scaling is None else scaling
    readers = query.shape[1] // key.shape[1]
    keys, values = (
        quantized.repeat_interleave(readers, 1) if readers > 1 else quantized
        for quantized in (quantizers.key(key), quantizers.value(value))
    )
    scores = torch.matmul(quantizers.query(query), keys.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = quantizers.probabilities(nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype))
    dropped = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    output = torch.matmul(dropped, values).transpose(1, 2).contiguous()
    return output, probabilities


class QuantizedDropout(nn.Dropout):
    """Stands where a family's own attention code applies dropout to its probabilities: quantizes them first."""

    @classmethod
    def from_dropout(cls, dropout: nn.Module, quantizer: ActivationQuantizer) -> "QuantizedDropout":
        """Keep the rate of `dropout`."""
        layer = cls(getattr(dropout, "p", 0.0)).train(dropout.training)
        layer.quantizer = quantizer
        return layer

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.quantizer(x))

    def update(self) -> None:
        """Once per optimizer step, outside autograd."""
        self.quantizer.update()

    def frozen(self) -> "QuantizedDropout":
        """The same with the quantizer in its frozen form."""
        return QuantizedDropout.from_dropout(self, self.quantizer.frozen())


AttentionInterface.register(ATTENTION_NAME, mpq_attention_forward)
AttentionMaskInterface.register(ATTENTION_NAME, eager_mask)
