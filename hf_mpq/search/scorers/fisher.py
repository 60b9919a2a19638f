"""Fisher information of row groups, in Kronecker form: one backward pass over a few hundred examples."""

from collections.abc import Iterable, Mapping

import torch
from rich.progress import track
from torch import Tensor, nn

from ...core import PrecisionSpace, WeightSpec
from .base import SCORERS, Scorer, check_count, never_rising, open_matrices, rounding_errors
from .moments import Moment, MomentRecorder
from .passes import batches_on, differentiating, tables
from .sampled_loss import sampled_loss


@SCORERS.register("fisher")
class FisherScorer(Scorer):
    """`S(b) = 1/2 sum_rows d_i dw_i A dw_i^T`: the second-order estimate of the KL divergence per example that rounding
    a sub-group to b bits causes, with `A = E[x x^T]` over tokens and `d_i` the squared gradient of output i, summed
    over the tokens of an example.

    Labels are drawn from the model (the true Fisher, not the empirical one, which vanishes at convergence). Padding is
    left out of A. Tables use how often a row is read (with half a count for each row) in place of A.
    Our own composition after K-FAC (Martens and Grosse, 2015).

    Memory: one A for each distinct input (query, key and value share theirs), 540 MB for BERT-base.

    Args:
        diagonal: use only the diagonal of A: less memory and time, and blind to correlated inputs.
        draws: labels drawn for each example; each further one costs a backward pass and lowers the noise.
        seed: of the drawn labels.
        progress: show a progress bar.
    """

    def __init__(self, diagonal: bool = False, draws: int = 1, seed: int = 0, progress: bool = False):
        self.diagonal, self.draws = diagonal, check_count("draws", draws)
        self.seed, self.progress = seed, progress

    def forward_passes(self, space: PrecisionSpace, batches: int) -> float:
        return batches * (1.5 + 2.0 * self.draws)

    def score(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> dict[str, Tensor]:
        layers = open_matrices(model, space)
        moments, examples = self._collect(model, {name: module for name, (module, _) in layers.items()}, batches)
        shown = track(layers.items(), "scoring", disable=not self.progress)
        return {
            name: self._scores(module, spec, moments.inputs(name), moments.gradients[name], examples)
            for name, (module, spec) in shown
        }

    def _collect(
        self, model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[Mapping]
    ) -> tuple[MomentRecorder, int]:
        """Moments, and how many times an example was drawn a label."""
        given, reached = batches_on(model, batches), tables(model)
        generator = torch.Generator(reached[0].device).manual_seed(self.seed)
        with MomentRecorder(layers, self.diagonal) as moments, differentiating(model, reached):
            for batch in track(given, "gradients", disable=not self.progress):
                moments.mask = batch.mask
                output = model(**batch.inputs)
                moments.flush()
                for draw in range(self.draws):
                    loss = sampled_loss(output, batch.mask, generator)
                    torch.autograd.grad(loss, reached, retain_graph=draw + 1 < self.draws, allow_unused=True)
        return moments, sum(map(len, given)) * self.draws

    @torch.no_grad()
    def _scores(self, module: nn.Module, spec: WeightSpec, inputs: Moment, gradients, examples: int) -> Tensor:
        gradients = torch.as_tensor(gradients, device=module.weight.device) / examples
        columns = []
        for error in rounding_errors(module.weight, spec):
            weighted = _weighted_squares(error, inputs, gradients, isinstance(module, nn.Embedding))
            columns.append(0.5 * spec.layout.reduce(weighted, "sum").double())
        return never_rising(torch.stack(columns, dim=1))


def _weighted_squares(error: Tensor, inputs: Moment, gradients: Tensor, table: bool) -> Tensor:
    """Twice each weight's share of the score: `(out, in)`."""
    total = torch.as_tensor(inputs.total, device=error.device)
    if table:
        often = total + 0.5
        return error.square() * (often / often.sum()).unsqueeze(1) * gradients
    mean = total / max(inputs.tokens, 1)
    spread = error @ mean if mean.dim() == 2 else error * mean
    return error * spread * gradients.reshape(-1, 1)
