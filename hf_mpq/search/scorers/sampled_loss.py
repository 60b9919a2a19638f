"""A loss whose gradients have the Fisher information as their second moment: labels are drawn from the model itself."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.utils import ModelOutput

from .passes import real_tokens, without_padding


def sampled_loss(output: ModelOutput, attention_mask: Tensor | None, generator: torch.Generator) -> Tensor:
    """Sum over the examples of minus the log-likelihood of labels drawn from the model.

    Classes, of examples or of tokens that are not padding, and start and end positions are drawn from their softmax.
    A regression output and a bare model's hidden states are taken as means of unit Gaussians, whose log-likelihood has
    the drawn noise as its gradient.
    """
    if "start_logits" in output:
        spans = (output["start_logits"], output["end_logits"])
        return sum(_class_loss(without_padding(logits, attention_mask), generator) for logits in spans)
    if "logits" not in output:
        return _gaussian_loss(real_tokens(output[0], attention_mask), generator)
    logits = output["logits"]
    if logits.shape[-1] == 1:
        return _gaussian_loss(logits, generator)
    return _class_loss(logits if logits.dim() == 2 else real_tokens(logits, attention_mask), generator)


def _class_loss(logits: Tensor, generator: torch.Generator) -> Tensor:
    """`(n, classes)`"""
    labels = torch.multinomial(logits.detach().float().softmax(-1), 1, generator=generator).squeeze(1)
    return cross_entropy(logits.float(), labels, reduction="sum")


def _gaussian_loss(means: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(means.shape, generator=generator, device=means.device, dtype=means.dtype)
    return (means * noise).sum()
