"""Traces and top eigenvalues of blocks of the Hessian, without ever writing it down."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...core import SubgroupLayout, spread, track
from ...nn.heads import decisions_of
from .passes import Batch
from .task_loss import task_loss

Weights = Mapping[str, Tensor]


class Curvature:
    """The Hessian of the mean task loss per example, by differentiating twice.

    Args:
        model: in evaluation mode, with gradients of `weights` and attention that can be differentiated twice.
        weights: name to parameter.
        batches: of inputs, with labels or without.
        tolerance: stop when the estimates change by less than this, relatively.
        seed: of the random vectors.
        progress: show a progress bar.
    """

    def __init__(
        self, model: nn.Module, weights: Weights, batches: Sequence[Batch], tolerance: float, seed: int, progress: bool
    ):
        self.model, self.weights, self.batches, self.tolerance = model, weights, batches, tolerance
        self.progress = progress
        self.generator = torch.Generator(next(iter(weights.values())).device).manual_seed(seed)

    def traces(self, layouts: Mapping[str, SubgroupLayout], draws: int) -> dict[str, Tensor]:
        """Hutchinson's estimate of the trace of each sub-group: name to `(groups,)` float64.

        One pass over the batches for each draw; each batch gets random signs of its own for all weights at once, which
        is as unbiased as one vector for all of them, with less noise. Stops when the matrices' traces have settled.
        """
        examples = sum(map(len, self.batches))
        sums = {name: torch.zeros(layout.count, dtype=torch.float64) for name, layout in layouts.items()}
        settled = _Settled(self.tolerance)
        for draw in track(range(1, draws + 1), "Hessian traces", disable=not self.progress):
            for batch in self.batches:
                signs = {name: self._signs(weight) for name, weight in self.weights.items()}
                for name, product in self._products(batch, [signs])[0].items():
                    sums[name] += layouts[name].reduce(signs[name] * product, "sum").double().cpu()
            if settled(torch.stack([total.sum() for total in sums.values()]) / draw):
                break
        return {name: total / (draw * examples) for name, total in sums.items()}

    def eigenvalues(self, blocks: Mapping[str, Sequence[str]], parts: int, iterations: int) -> dict[str, Tensor]:
        """Eigenvalue of largest size of the Hessian of each block of weights, on parts of the data: name to `(parts,)`.

        Power iteration of all blocks side by side; each has only its own weights in its vector.
        """
        sizes, start, columns = spread(len(self.batches), parts), 0, []
        for size in track(sizes, "Hessian eigenvalues", disable=not self.progress):
            columns.append(self._power_iteration(blocks, self.batches[start : start + size], iterations))
            start += size
        return dict(zip(blocks, torch.stack(columns, dim=1)))

    def _power_iteration(self, blocks, batches: Sequence[Batch], iterations: int) -> Tensor:
        vectors = [_unit({name: self._normal(self.weights[name]) for name in names}) for names in blocks.values()]
        examples, settled = sum(map(len, batches)), _Settled(self.tolerance)
        for _ in range(iterations):
            products = _total(self._products(batch, vectors) for batch in batches)
            values = torch.stack([_inner(vector, product) for vector, product in zip(vectors, products)]) / examples
            if settled(values):
                break
            vectors = [_unit(product) for product in products]
        return values

    def _products(self, batch: Batch, vectors: Sequence[Weights]) -> list[dict[str, Tensor]]:
        """Hessian of the summed loss of a batch times each vector, over the weights that the vector has."""
        loss = task_loss(decisions_of(self.model.config, self.model(**batch.inputs), batch.mask), batch)
        found = torch.autograd.grad(loss, list(self.weights.values()), create_graph=True, materialize_grads=True)
        gradients = dict(zip(self.weights, found))
        return [self._product(gradients, vector) for vector in vectors]

    def _product(self, gradients: Weights, vector: Weights) -> dict[str, Tensor]:
        inner = sum((gradients[name] * part).sum() for name, part in vector.items())
        weights = [self.weights[name] for name in vector]
        if not inner.requires_grad:
            return {name: torch.zeros_like(weight) for name, weight in zip(vector, weights)}
        return dict(zip(vector, torch.autograd.grad(inner, weights, retain_graph=True, materialize_grads=True)))

    def _signs(self, weight: Tensor) -> Tensor:
        drawn = torch.randint(0, 2, weight.shape, generator=self.generator, device=weight.device)
        return (2 * drawn - 1).to(weight.dtype)

    def _normal(self, weight: Tensor) -> Tensor:
        return torch.randn(weight.shape, generator=self.generator, device=weight.device, dtype=weight.dtype)


class _Settled:
    """Says when a vector changes by less than `tolerance`, relatively."""

    def __init__(self, tolerance: float):
        self.tolerance, self.last = tolerance, None

    def __call__(self, values: Tensor) -> bool:
        last, self.last = self.last, values
        return last is not None and bool((values - last).norm() <= self.tolerance * values.norm())


def _inner(first: Weights, second: Weights) -> Tensor:
    return sum((first[name] * second[name]).sum().double() for name in first).cpu()


def _unit(vector: Weights) -> dict[str, Tensor]:
    """At length 1; a zero vector stays."""
    length = max(float(_inner(vector, vector)) ** 0.5, torch.finfo(torch.float32).tiny)
    return {name: part / length for name, part in vector.items()}


def _total(results: Iterator[list[dict[str, Tensor]]]) -> list[dict[str, Tensor]]:
    total = next(results)
    for result in results:
        total = [{name: kept[name] + added[name] for name in kept} for kept, added in zip(total, result)]
    return total
