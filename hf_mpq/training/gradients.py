"""How the gradients of the passes of one step become one gradient."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import torch
from torch import Tensor, nn

from ..core import Registry

Gradients = Sequence[Tensor | None]
"""Of one pass: a gradient for each parameter, None where the pass has none."""
Combiner = Callable[[Sequence[Gradients]], list[Tensor | None]]
"""From the gradients of every pass to one for each parameter."""

CHUNK = 1 << 20
"""Numbers that are multiplied at a time in float64."""

COMBINERS: Registry[Combiner] = Registry("gradient combiner")


@COMBINERS.register("sum")
def add_gradients(passes: Sequence[Gradients]) -> list[Tensor | None]:
    """The sum over the passes, as one backward of the summed losses gives it."""
    return [_sum(each) for each in zip(*passes)]


@COMBINERS.register("min-norm")
def least_norm(passes: Sequence[Gradients]) -> list[Tensor | None]:
    """The shortest vector in the convex hull of the passes' gradients: a direction in which no pass's loss rises, or
    zero where no such direction is left (multiple-gradient descent, Desideri, 2012).

    Parameters with a gradient in more than one pass take part, with weights that they share; all others keep theirs.
    """
    shared = [sum(grad is not None for grad in each) > 1 for each in zip(*passes)]
    weights = min_norm_weights(_products([[g for g, here in zip(one, shared) if here] for one in passes]))
    return [_sum(each, weights.tolist() if here else None) for each, here in zip(zip(*passes), shared)]


def min_norm_weights(products: Tensor) -> Tensor:
    """Weights, at least 0 and of sum 1, of the shortest convex combination of some vectors.

    Exact: the optimum has some support, and of every possible one the equality-constrained problem is solved.

    Args:
        products: inner products of the vectors, `(vectors, vectors)`; at most ten vectors.

    Returns:
        `(vectors,)` float64 on the CPU; equal ones where products are not finite, as in a step that a gradient scaler
        leaves out.

    Raises:
        ValueError: for more than ten vectors.
    """
    count = len(products)
    if count > 10:
        raise ValueError(f"min-norm is solved by trying every support, at most of 10 passes; got {count}")
    products = products.double().cpu()
    if not bool(products.isfinite().all()):
        return torch.full((count,), 1 / count, dtype=torch.float64)
    products = products / products.diagonal().amax().clamp(min=torch.finfo(torch.float64).tiny)
    best, least = torch.full((count,), 1 / count, dtype=torch.float64), float("inf")
    for size in range(1, count + 1):
        for support in combinations(range(count), size):
            weights = _on_support(products, support)
            norm = float(weights @ products @ weights)
            if bool((weights >= -1e-12).all()) and norm < least - 1e-15:
                best, least = weights.clamp(min=0), norm
    return best / best.sum()


def _on_support(products: Tensor, support: tuple[int, ...]) -> Tensor:
    """Weights of sum 1 on a support at which the norm is stationary, `(vectors,)`."""
    size, index = len(support), torch.tensor(support)
    system = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    system[:size, :size] = products[index][:, index]
    system[size, :size] = system[:size, size] = 1
    target = torch.zeros(size + 1, dtype=torch.float64)
    target[size] = 1
    found = torch.linalg.lstsq(system, target.unsqueeze(1), driver="gelsd").solution[:size, 0]
    weights = torch.zeros(len(products), dtype=torch.float64)
    weights[index] = found / found.sum() if float(found.sum()) else found
    return weights


def _products(passes: Sequence[Gradients]) -> Tensor:
    """Inner products of the passes' gradients, `(passes, passes)` float64; what a pass lacks is zero."""
    table = torch.zeros(len(passes), len(passes), dtype=torch.float64)
    for each in zip(*passes):
        here = torch.tensor([place for place, grad in enumerate(each) if grad is not None])
        if len(here) and each[here[0]].device != table.device:
            table = table.to(each[here[0]].device)
        for part in zip(*(grad.flatten().split(CHUNK) for grad in each if grad is not None)):
            rows = torch.stack(part).double()
            table[here[:, None].to(table.device), here.to(table.device)] += rows @ rows.T
    return table


def _sum(gradients: Gradients, weights: Sequence[float] | None = None) -> Tensor | None:
    weights = [1.0] * len(gradients) if weights is None else weights
    parts = [grad if weight == 1 else weight * grad for grad, weight in zip(gradients, weights) if grad is not None]
    return sum(parts[1:], parts[0]) if parts else None


class PassGradients:
    """Gradients of the passes of a step, kept apart over its micro-batches and merged before the optimizer steps.

    Args:
        parameters: that are trained.
        combine: a registered name of `COMBINERS`.
        by_entries: those among them whose entries are parameters of their own, such as the scales of every precision:
            an entry that one pass alone touches keeps that gradient.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], combine: str, by_entries: Iterable[nn.Parameter] = ()):
        self.parameters, self._combine = list(parameters), COMBINERS[combine]
        chosen = {id(one) for one in by_entries}
        self._by_entries = [place for place, one in enumerate(self.parameters) if id(one) in chosen]
        self._kept: dict[str, list[Tensor | None]] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Within it, backward adds to the gradients of the pass `name` alone."""
        for parameter, grad in zip(self.parameters, self._kept.get(name, [None] * len(self.parameters))):
            parameter.grad = grad
        yield
        self._kept[name] = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def merge(self) -> None:
        """Give every parameter its merged gradient, and begin anew."""
        passes = list(self._kept.values())
        own = {place: _take_own(passes, place) for place in self._by_entries}
        merged = self._combine(passes) if passes else [None] * len(self.parameters)
        for place, (parameter, grad) in enumerate(zip(self.parameters, merged)):
            parameter.grad = _sum([grad, own.get(place)])
        self._kept = {}


def _take_own(passes: Sequence[list[Tensor | None]], place: int) -> Tensor | None:
    """The gradient of the entries of one parameter that a single pass touches; what is left to merge is the others'."""
    found = [one[place] for one in passes if one[place] is not None]
    if not found:
        return None
    shared = torch.stack([grad != 0 for grad in found]).sum(0) > 1
    left = bool(shared.any())
    for one in passes:
        if one[place] is not None:
            one[place] = one[place] * shared if left else None
    return torch.stack(found).sum(0) * ~shared
