"""First-order scores: gradient times change of the weight."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ...core import PrecisionSpace, WeightSpec, input_of, track
from ...nn.heads import decisions_of
from .base import SCORERS, Scorer, check_choice, never_rising, open_matrices, rounding_errors
from .inputs import InputRecorder, open_inputs
from .passes import Batch, batches_on, differentiating, tables
from .sampled_loss import sampled_loss

_Layers = dict[str, tuple[nn.Module, WeightSpec]]


@SCORERS.register("gradient")
class GradientScorer(Scorer):
    """`S(b) = sum |g * dW_b|` over a sub-group, as in AutoRound's AutoScheme; or `|<g, dW_b>|`, as in LLM-MQ.

    The gradient of a trained model's loss is near zero, and so is the mean gradient of outputs drawn from the model.
    What is used is its size: `|g|` of each batch with drawn outputs (see `sampled_loss`), averaged over the batches.
    Drawn gradients of examples are independent with mean zero, so that of a batch is divided by the root of its
    examples: the score is that of one example, whatever the batch size. Open inputs are scored alike, by what rounding
    changes in them.

    Args:
        measure: `"absolute"`, the sum of absolute products; or `"first-order"`, the absolute inner product, averaged
            over the batches, which keeps the changes of all candidates in memory.
        seed: of the draws.
        progress: show a progress bar.
    """

    def __init__(self, measure: str = "absolute", seed: int = 0, progress: bool = False):
        self.measure = check_choice("measure", measure, ("absolute", "first-order"))
        self.seed, self.progress = seed, progress

    def forward_passes(self, space: PrecisionSpace, batches: int) -> float:
        return 3.0 * batches

    def score(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> dict[str, Tensor]:
        layers, given = open_matrices(model, space), batches_on(model, batches)
        absolute = self.measure == "absolute"
        with InputRecorder(open_inputs(model, space)) as inputs:
            found = (self._absolute if absolute else self._inner)(model, layers, given, inputs)
        of_inputs = inputs.sizes if absolute else inputs.products
        found |= {input_of(name): table / len(given) for name, table in of_inputs.items()}
        return {name: never_rising(table) for name, table in found.items()}

    def _gradients(self, model: nn.Module, layers: _Layers, batches: list[Batch], inputs: InputRecorder):
        """Of each batch, the gradient of every open weight at the size of one example's."""
        weights = [module.weight for module, _ in layers.values()]
        reached = [*weights, *(tables(model) if inputs.inputs else [])]
        generator = torch.Generator(reached[0].device).manual_seed(self.seed)
        with differentiating(model, reached):
            for batch in track(batches, "gradients", disable=not self.progress):
                outputs = decisions_of(model.config, model(**batch.inputs), batch.mask)
                loss = sampled_loss(outputs, generator) / len(batch) ** 0.5
                inputs.begin(1)
                found = torch.autograd.grad(loss, reached, materialize_grads=True)
                inputs.finish()
                yield dict(zip(layers, (gradient.float() for gradient in found)))

    def _absolute(self, model: nn.Module, layers: _Layers, batches: list[Batch], inputs: InputRecorder):
        sizes: dict[str, Tensor | float] = dict.fromkeys(layers, 0.0)
        for gradients in self._gradients(model, layers, batches, inputs):
            sizes = {name: sizes[name] + gradients[name].abs() / len(batches) for name in layers}
        shown = track(layers.items(), "scoring", disable=not self.progress)
        return {
            name: _table(spec, [error.abs() * sizes[name] for error in rounding_errors(module.weight, spec)])
            for name, (module, spec) in shown
        }

    def _inner(self, model: nn.Module, layers: _Layers, batches: list[Batch], inputs: InputRecorder):
        errors = {name: rounding_errors(module.weight, spec) for name, (module, spec) in layers.items()}
        scores: dict[str, Tensor | float] = dict.fromkeys(layers, 0.0)
        for gradients in self._gradients(model, layers, batches, inputs):
            for name, (_, spec) in layers.items():
                products = _table(spec, [error * gradients[name] for error in errors[name]])
                scores[name] = scores[name] + products.abs() / len(batches)
        return scores


def _table(spec: WeightSpec, products: list[Tensor]) -> Tensor:
    """Sums over sub-groups, one column each: `(groups, candidates)` float64."""
    return torch.stack([spec.layout.reduce(product, "sum").double() for product in products], dim=1)
