"""A loss whose gradients have the Fisher information as their second moment: its outputs are drawn from the model."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ...nn.heads import CLASSES, VALUES, Decisions


def sampled_loss(outputs: Mapping[str, Decisions], generator: torch.Generator) -> Tensor:
    """A sum over the examples whose gradient in the outputs has mean zero and their Fisher information as covariance.

    For classes (of examples, of tokens that are not padding, or of start and end positions) that is
    `diag(p) - p p^T`, as of the log-likelihood of a label drawn from the model; for several labels at once
    `diag(p (1 - p))`. Random signs are drawn instead of labels: the covariance is the same, but a confident model's
    labels hardly ever differ from its prediction, so that a few examples would decide everything. A regression output,
    the score of a ranking, and a bare model's hidden states or embeddings are taken as means of unit Gaussians.
    """
    return sum(_loss(decisions, generator) for decisions in outputs.values())


def _loss(decisions: Decisions, generator: torch.Generator) -> Tensor:
    rows = decisions.rows
    if decisions.kind == VALUES:
        noise = torch.randn(rows.shape, generator=generator, device=rows.device, dtype=rows.dtype)
        return (rows * noise).sum()
    chances = decisions.probabilities().detach().float()
    signs = 2.0 * torch.randint(0, 2, rows.shape, generator=generator, device=rows.device) - 1
    drawn = _of_classes(chances, signs) if decisions.kind == CLASSES else (chances * (1 - chances)).sqrt() * signs
    return (rows.float() * drawn).sum()


def _of_classes(chances: Tensor, signs: Tensor) -> Tensor:
    """With signs e, the gradient is `sqrt(p) * e - p <sqrt(p), e>`; `(n, classes)`."""
    drawn = chances.sqrt() * signs
    return drawn - chances * drawn.sum(-1, keepdim=True)
