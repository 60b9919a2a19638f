"""Fisher information of row groups, in Kronecker form: one backward pass over a few hundred examples."""

from collections.abc import Iterable, Mapping

import torch
from rich.progress import track
from torch import Tensor, nn

from ...core import PrecisionSpace, WeightSpec
from .base import SCORERS, Scorer, never_rising, open_matrices, rounding_errors
from .sampled_loss import sampled_loss


class _Moments:
    """Second moments that a layer's input and output gradient leave behind, padding excluded.

    Attributes:
        inputs: sum of `x x^T`, `(in, in)`; with `diagonal`, its diagonal `(in,)`; for a table, how often each row was
            read, `(rows,)`.
        gradients: sum of squared output gradients, `(out,)`.
        tokens: how many inputs.
    """

    def __init__(self, module: nn.Module, diagonal: bool):
        self.table, self.diagonal = isinstance(module, nn.Embedding), diagonal
        self.inputs: Tensor | float = 0.0
        self.gradients: Tensor | float = 0.0
        self.tokens = 0
        self.mask: Tensor | None = None
        self.hook = module.register_forward_hook(self._forward)

    def _forward(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        x = self._kept(inputs[0].detach(), output)
        self.tokens += len(x)
        if self.table:
            self.inputs = self.inputs + torch.bincount(x.flatten(), minlength=module.num_embeddings).float()
        else:
            self.inputs = self.inputs + (x.float().square().sum(0) if self.diagonal else x.float().T @ x.float())
        output.register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> None:
        self.gradients = self.gradients + gradient.detach().float().flatten(0, -2).square().sum(0)

    def _kept(self, x: Tensor, output: Tensor) -> Tensor:
        """Rows of `x` that stand for real tokens; inputs of another shape (pooled, positions) are kept whole."""
        rows = x.flatten() if self.table else x.flatten(0, -2)
        tokens = x.shape if self.table else x.shape[:-1]
        if self.mask is None or tokens != self.mask.shape:
            return rows
        return rows[self.mask.flatten()]


@SCORERS.register("fisher")
class FisherScorer(Scorer):
    """`S(b) = 1/2 sum_rows d_i dw_i A dw_i^T`: the second-order estimate of the KL divergence per example that rounding
    a sub-group to b bits causes, with `A = E[x x^T]` and `d_i` the summed squared gradient of output i per example.

    Labels are drawn from the model (the true Fisher, not the empirical one, which vanishes at convergence). Padding is
    left out of A. Tables use how often a row is read (with half a count for each row) in place of A.
    Our own composition after K-FAC (Martens and Grosse, 2015).

    Args:
        diagonal: use only the diagonal of A: less memory and time, and blind to correlated inputs.
        seed: of the drawn labels.
        progress: show a progress bar.
    """

    def __init__(self, diagonal: bool = False, seed: int = 0, progress: bool = False):
        self.diagonal, self.seed, self.progress = diagonal, seed, progress

    def score(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> dict[str, Tensor]:
        layers = open_matrices(model, space)
        moments, examples = self._collect(model, {name: module for name, (module, _) in layers.items()}, batches)
        return {
            name: self._scores(module.weight, spec, moments[name], examples)
            for name, (module, spec) in track(layers.items(), "scoring", disable=not self.progress)
        }

    def _collect(
        self, model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[Mapping]
    ) -> tuple[dict[str, _Moments], int]:
        device = next(model.parameters()).device
        generator = torch.Generator(device).manual_seed(self.seed)
        moments = {name: _Moments(module, self.diagonal) for name, module in layers.items()}
        training, examples = model.training, 0
        model.eval()
        try:
            for batch in track(batches, "gradients", disable=not self.progress):
                inputs = {key: value.to(device) for key, value in batch.items() if "label" not in key}
                mask = inputs.get("attention_mask")
                for moment in moments.values():
                    moment.mask = None if mask is None else mask.bool()
                with torch.enable_grad():
                    loss = sampled_loss(model(**inputs), mask, generator)
                torch.autograd.grad(loss, model.get_input_embeddings().weight)  # nothing but activations on the way
                examples += len(next(iter(inputs.values())))
        finally:
            for moment in moments.values():
                moment.hook.remove()
            model.train(training)
        if not examples:
            raise ValueError("no calibration examples were given; a few hundred of the task's inputs are enough")
        return moments, examples

    @torch.no_grad()
    def _scores(self, weight: Tensor, spec: WeightSpec, moments: _Moments, examples: int) -> Tensor:
        columns = []
        for error in rounding_errors(weight, spec):
            weighted = self._weighted_squares(error, moments) / examples
            columns.append(0.5 * spec.layout.reduce(weighted, "sum").double())
        return never_rising(torch.stack(columns, dim=1))

    def _weighted_squares(self, error: Tensor, moments: _Moments) -> Tensor:
        """Each weight's share of the score, times the examples: `(out, in)`."""
        tokens, gradients = max(moments.tokens, 1), torch.as_tensor(moments.gradients, device=error.device)
        if moments.table:
            often = torch.as_tensor(moments.inputs, device=error.device) + 0.5
            return error.square() * (often / often.sum()).unsqueeze(1) * gradients
        inputs = torch.as_tensor(moments.inputs, device=error.device) / tokens
        spread = error * inputs if self.diagonal else error @ inputs
        return error * spread * gradients.unsqueeze(1)
