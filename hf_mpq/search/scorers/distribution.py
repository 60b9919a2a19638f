"""How well a few levels can stand for the weights of a sub-group, whatever the quantizer."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...core import PrecisionSpace, SubgroupLayout, WeightSpec, track
from .base import SCORERS, Scorer, masked_program, never_rising, open_matrices
from .kmeans import kmeans_errors

LITERAL_FACTOR = 1e6
"""What GHOST multiplies mean squared errors by."""


@SCORERS.register("distribution")
class DistributionScorer(Scorer):
    """`D(b)`: mean squared error of k-means with `2^b` clusters on the weights of a sub-group (GHOST's hybrid
    quantization, Zhang et al., TGRS 2023); needs no data.

    Divided by the variance of the sub-group it does not depend on the scale of the weights; 0 bits cost their mean
    square. A constant sub-group costs 0 at any precision, and 1 when pruned. What a mask drops costs its mean square at
    every precision; the clusters are those of the masked weights.

    Args:
        relative: divide by the variance. False is the literal rule: the error times 10^6.
        progress: show a progress bar.
    """

    needs_data = False

    def __init__(self, relative: bool = True, progress: bool = False):
        self.relative, self.progress = relative, progress

    @torch.no_grad()
    def score(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping] = ()) -> dict[str, Tensor]:
        return {
            name: never_rising(self._distortions(module.weight, spec))
            for name, (module, spec) in track(open_matrices(model, space).items(), "k-means", disable=not self.progress)
        }

    def _distortions(self, weight: Tensor, spec: WeightSpec) -> Tensor:
        if spec.mask is None:
            return distortions(weight, spec.layout, spec.candidates, self.relative)
        keep = masked_program(weight.detach().float(), spec).keep()
        return distortions(weight, spec.layout, spec.candidates, self.relative, keep)


def distortions(
    weight: Tensor,
    layout: SubgroupLayout,
    candidates: Sequence[int],
    relative: bool = True,
    keep: Tensor | None = None,
) -> Tensor:
    """`D(b)` of every sub-group at every candidate: `(groups, candidates)` float64; `keep` `(out, in)` is the mask."""
    weight = weight.detach().float()
    parts, kept = layout.split(weight), layout.split(weight if keep is None else weight * keep)
    found = torch.zeros(layout.count, len(candidates), dtype=torch.float64, device=weight.device)
    for size in set(layout.numel):
        groups = [group for group, numel in enumerate(layout.numel) if numel == size]
        values, masked = (torch.stack([of[group].reshape(-1) for group in groups]) for of in (parts, kept))
        found[groups] = _distortions(values, masked, candidates, relative)
    return found


def _distortions(values: Tensor, masked: Tensor, candidates: Sequence[int], relative: bool) -> Tensor:
    """The same of sub-groups of one size, before and after the mask: `(groups, n)` each."""
    power, dropped = values.double().square().mean(1), (values - masked).double().square().mean(1)
    rows = masked.sort(dim=1).values
    errors = [kmeans_errors(rows, 2**bits) + dropped if bits else power for bits in candidates]
    table = torch.stack(errors, dim=1)
    if not relative:
        return LITERAL_FACTOR * table
    variance = values.double().var(dim=1, correction=0)
    base = torch.where(variance > 1e-12 * power, variance, power)
    return table / torch.where(base > 0, base, torch.ones_like(base)).unsqueeze(1)


def threshold_bits(
    distortions: Tensor, tau: float, candidates: Sequence[int] = range(2, 9), low: int = 2, high: int = 8
) -> Tensor:
    """GHOST's rule: the fewest bits whose distortion is below `tau`, the most where there are none, within limits.

    Args:
        distortions: `(groups, candidates)`, as the scorer gives them.
        tau: with the literal distortions the paper's is 0.1; that depends on the scale of the weights.
        candidates: bits of the columns, ascending.
        low, high: limits that the bits are clamped to.

    Returns:
        `(groups,)` int64.

    Raises:
        ValueError: when there are not as many candidates as columns.
    """
    if distortions.shape[1] != len(candidates):
        raise ValueError(
            f"{distortions.shape[1]} columns of distortions for {len(candidates)} candidates; give the "
            "candidates of the matrix that the distortions are of"
        )
    below = torch.as_tensor(distortions) < tau
    first = torch.where(below.any(1), below.int().argmax(1), len(candidates) - 1)
    return torch.tensor(list(candidates), device=first.device)[first].clamp(low, high)
