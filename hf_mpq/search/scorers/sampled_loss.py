"""A loss whose gradients have the Fisher information as their second moment: its outputs are drawn from the model."""

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from ...nn.pooling import EMBEDDING
from .passes import real_tokens, without_padding


def sampled_loss(output: ModelOutput, attention_mask: Tensor | None, generator: torch.Generator) -> Tensor:
    """A sum over the examples whose gradient in the outputs has mean zero and their Fisher information as covariance.

    For classes (of examples, of tokens that are not padding, or of start and end positions) that is
    `diag(p) - p p^T`, as of the log-likelihood of a label drawn from the model. Random signs are drawn instead of
    labels: the covariance is the same, but a confident model's labels hardly ever differ from its prediction, so that a
    few examples would decide everything. A regression output and a bare model's hidden states or embeddings are
    taken as means of unit Gaussians.
    """
    if "start_logits" in output:
        spans = (output["start_logits"], output["end_logits"])
        return sum(_class_loss(without_padding(logits, attention_mask), generator) for logits in spans)
    if EMBEDDING in output:
        return _gaussian_loss(output[EMBEDDING], generator)
    if "logits" not in output:
        return _gaussian_loss(real_tokens(output[0], attention_mask), generator)
    logits = output["logits"]
    if logits.shape[-1] == 1:
        return _gaussian_loss(logits, generator)
    return _class_loss(logits if logits.dim() == 2 else real_tokens(logits, attention_mask), generator)


def _class_loss(logits: Tensor, generator: torch.Generator) -> Tensor:
    """With signs e, the gradient is `sqrt(p) * e - p <sqrt(p), e>`; `(n, classes)`."""
    chances = logits.detach().float().softmax(-1)
    signs = 2.0 * torch.randint(0, 2, chances.shape, generator=generator, device=logits.device) - 1
    drawn = chances.sqrt() * signs
    return (logits.float() * (drawn - chances * drawn.sum(-1, keepdim=True))).sum()


def _gaussian_loss(means: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(means.shape, generator=generator, device=means.device, dtype=means.dtype)
    return (means * noise).sum()
