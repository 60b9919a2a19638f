"""One-dimensional k-means of many sub-groups at once, on sorted values."""

import torch
from torch import Tensor
from torch.nn.functional import pad

KNOTS = 1024
"""Points at which the density of a sub-group is read for the first centres."""

_FIRST, _EXCHANGES = 8, 8  # Lloyd steps before any exchange; exchanges, each with two Lloyd steps and a comparison
_SPLIT_GAIN = 0.75  # share of its error that an even cluster loses when it is halved
_TINY = torch.finfo(torch.float64).tiny


def kmeans_errors(values: Tensor, clusters: int) -> Tensor:
    """Mean squared distance of each row's values to the nearest of its cluster centres: `(groups,)` float64.

    Lloyd's algorithm on sorted rows with prefix sums: a step costs as much as there are centres, however many values.
    It starts from the asymptotically best spacing of centres (Panter and Dite, 1951), draws nothing, and leaves poor
    minima by moving centres from where two can be merged cheaply to where one has much error.

    Args:
        values: `(groups, n)`, sorted within each row; with as many clusters as values there is no error.
    """
    if clusters >= values.shape[1]:
        return torch.zeros(len(values), dtype=torch.float64, device=values.device)
    rows = _SortedRows(values)
    centres = rows.lloyd(_spaced_centres(values, clusters), _FIRST)
    errors = rows.errors(centres).sum(1)
    for turn in range(_EXCHANGES):
        moved = rows.lloyd(rows.exchanged(centres, turn % 2), 2)
        found = rows.errors(moved).sum(1)
        better = found < errors
        centres, errors = torch.where(better.unsqueeze(1), moved, centres), torch.where(better, found, errors)
        if turn % 2 and not better.any():
            break
    return rows.errors(centres).sum(1).clamp(min=0) / values.shape[1]


class _SortedRows:
    """Sums of any run of sorted values at once. Centres are `(groups, clusters)` float64, rising."""

    def __init__(self, values: Tensor):
        self.values = values.contiguous()
        self.first, self.second = _prefix_sums(values), _prefix_sums(values.double().square())

    def edges(self, centres: Tensor) -> Tensor:
        """Where each cluster begins among the values, with the end: `(groups, clusters + 1)`."""
        middles = ((centres[:, 1:] + centres[:, :-1]) / 2).to(self.values.dtype).contiguous()
        return pad(pad(torch.searchsorted(self.values, middles), (1, 0)), (0, 1), value=self.values.shape[1])

    def lloyd(self, centres: Tensor, steps: int) -> Tensor:
        """Centres moved to the means of their clusters, again and again; an empty one stays."""
        for _ in range(steps):
            edges = self.edges(centres)
            counts, sums = edges.diff(dim=1), self.first.gather(1, edges).diff(dim=1)
            moved = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
            if torch.equal(moved, centres):
                break
            centres = moved
        return centres

    def errors(self, centres: Tensor) -> Tensor:
        """Summed squared distances in each cluster: `(groups, clusters)`."""
        edges = self.edges(centres)
        sums, squares = (prefix.gather(1, edges).diff(dim=1) for prefix in (self.first, self.second))
        return (squares - 2 * centres * sums + edges.diff(dim=1) * centres.square()).clamp(min=0)

    def exchanged(self, centres: Tensor, parity: int) -> Tensor:
        """Centres with some pairs merged, to split as many clusters of large error instead.

        Only pairs that begin at an even (or odd) centre are merged, so that none overlap.
        """
        clusters = centres.shape[1]
        many = max(1, clusters // 16)
        counts, errors = self.edges(centres).diff(dim=1), self.errors(centres)
        largest, split = errors.topk(min(many, clusters), dim=1)
        cost = _merge_costs(centres, counts, split, parity)
        cheapest, pair = cost.topk(min(many, cost.shape[1]), dim=1, largest=False)
        largest, split = largest[:, : pair.shape[1]], split[:, : pair.shape[1]]
        worth = _SPLIT_GAIN * largest > cheapest
        half = (_SPLIT_GAIN * largest / counts.gather(1, split).clamp(min=1)).sqrt()
        weights = counts.gather(1, torch.cat([pair, pair + 1], dim=1)).double().clamp(min=_TINY).chunk(2, dim=1)
        low, high = centres.gather(1, pair), centres.gather(1, pair + 1)
        merged = (low * weights[0] + high * weights[1]) / (weights[0] + weights[1])
        parent = centres.gather(1, split)
        moved = centres.scatter(1, split, torch.where(worth, parent - half, parent))
        moved = moved.scatter(1, pair + 1, torch.where(worth, parent + half, high))
        return moved.scatter(1, pair, torch.where(worth, merged, low)).sort(dim=1).values


def _merge_costs(centres: Tensor, counts: Tensor, split: Tensor, parity: int) -> Tensor:
    """Error added by merging each centre with the next, `(groups, clusters - 1)`; infinite where it is not to be."""
    left, right = counts[:, :-1], counts[:, 1:]
    cost = left * right / (left + right).clamp(min=1) * centres.diff(dim=1).square()
    taken = torch.zeros_like(centres, dtype=torch.bool).scatter(1, split, True)
    skipped = torch.arange(cost.shape[1], device=cost.device) % 2 != parity
    return cost.masked_fill(taken[:, :-1] | taken[:, 1:] | skipped, torch.inf)


def _prefix_sums(values: Tensor) -> Tensor:
    """`(groups, n)` to `(groups, n + 1)` float64."""
    return pad(values.cumsum(1, dtype=torch.float64), (1, 0))


def _spaced_centres(values: Tensor, clusters: int) -> Tensor:
    """Centres as dense as the cube root of the values' density: `(groups, clusters)`."""
    n = values.shape[1]
    places = torch.linspace(0, n - 1, min(max(n // 4, 2), KNOTS), device=values.device).round().long()
    knots = values[:, places].double().contiguous()
    mass = pad(knots.diff(dim=1).pow(2 / 3).cumsum(1), (1, 0)).contiguous()  # a gap has density 1/gap, so this mass
    wanted = mass[:, -1:] * (torch.arange(clusters, device=values.device) + 0.5) / clusters
    right = torch.searchsorted(mass, wanted.contiguous()).clamp(1, len(places) - 1)
    low, high = mass.gather(1, right - 1), mass.gather(1, right)
    share = ((wanted - low) / (high - low).clamp(min=_TINY)).clamp(0, 1)
    return knots.gather(1, right - 1).lerp(knots.gather(1, right), share)
