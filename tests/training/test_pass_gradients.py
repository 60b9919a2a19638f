"""Merging the gradients of several passes: the sum, and the shortest convex combination."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from hf_mpq.training.gradients import COMBINERS, PassGradients, min_norm_weights


def vectors(count, size=6, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_solver(products):
    """The same problem by sequential quadratic programming."""
    count, table = len(products), products.numpy()
    found = minimize(
        lambda a: a @ table @ a,
        np.full(count, 1 / count),
        jac=lambda a: 2 * table @ a,
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": lambda a: np.ones(count)},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return torch.from_numpy(found.x)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_the_norm_is_a_quadratic_solvers(count):
    for seed in range(20):
        given = vectors(count, seed=seed)
        products = given @ given.T
        ours, other = min_norm_weights(products), by_solver(products)
        assert ours.sum() == pytest.approx(1, abs=1e-12) and (ours >= 0).all()
        assert abs(float(ours @ products @ ours - other @ products @ other)) < 1e-9


def test_two_vectors_have_a_closed_form():
    for seed in range(20):
        a, b = vectors(2, seed=seed)
        share = (((b - a) @ b) / (a - b).square().sum()).clamp(0, 1)
        torch.testing.assert_close(
            min_norm_weights(torch.stack([a, b]) @ torch.stack([a, b]).T),
            torch.stack([share, 1 - share]),
            atol=1e-9,
            rtol=0,
        )


@pytest.mark.parametrize("count", [2, 3, 5])
def test_no_loss_rises_along_the_result(count):
    for seed in range(20):
        given = vectors(count, size=3, seed=seed)
        (merged,) = COMBINERS["min-norm"]([[grad] for grad in given])
        assert (given @ merged >= merged.square().sum() - 1e-9).all()


def test_at_a_pareto_point_nothing_moves():
    (merged,) = COMBINERS["min-norm"]([[torch.tensor([1.0, -2.0])], [torch.tensor([-2.0, 4.0])]])
    torch.testing.assert_close(merged, torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("given", [torch.zeros(3, 4), torch.ones(3, 4), torch.tensor([[0.0, 0], [1, 1], [1, 1]])])
def test_equal_and_vanishing_gradients(given):
    weights = min_norm_weights(given @ given.T)
    assert weights.isfinite().all() and weights.sum() == pytest.approx(1)
    assert (weights @ given.double()).square().sum() == pytest.approx(float(given.square().sum(1).min()))


def test_what_only_one_pass_touches_keeps_its_gradient():
    first, second, own = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([7.0])
    merged = COMBINERS["min-norm"]([[first, own, None, None], [second, None, own, None]])
    torch.testing.assert_close(merged[0], torch.tensor([0.5, 0.5]))
    assert torch.equal(merged[1], own) and torch.equal(merged[2], own) and merged[3] is None


def test_entries_that_only_one_pass_touches_keep_their_gradient():
    """As scales of several precisions in one parameter; the row that both touch is merged."""
    scales, weight = torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(2))
    kept = PassGradients([scales, weight], "min-norm", [scales])
    first, second = (torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0]))
    with kept.of("high"):
        (scales[0] * first + 2 * scales[2] * first + weight * first).sum().backward()
    with kept.of("low"):
        (scales[1] * second + scales[2] * second + weight * second).sum().backward()
    kept.merge()
    assert torch.equal(scales.grad[0], first) and torch.equal(scales.grad[1], second)
    assert torch.equal(scales.grad[2], torch.tensor([6.0, 1.0])), "each entry of it is one pass's too"
    share = min_norm_weights(torch.tensor([[9.0, 0], [0, 1]])).float()
    torch.testing.assert_close(weight.grad, share[0] * first + share[1] * second)


def test_entries_that_passes_share_are_merged_with_the_rest():
    scales, weight = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    kept = PassGradients([scales, weight], "min-norm", [scales])
    slopes = {"high": torch.tensor([3.0, 5.0]), "low": torch.tensor([-1.0, 0.0])}
    for name, slope in slopes.items():
        with kept.of(name):
            (scales * slope + 2 * weight * slope.flip(0)).sum().backward()
    kept.merge()
    rows = torch.stack([torch.cat([one[:1], 2 * one.flip(0)]) for one in slopes.values()])
    merged = min_norm_weights(rows @ rows.T).float() @ rows
    torch.testing.assert_close(torch.cat([scales.grad[:1], weight.grad]), merged)
    assert scales.grad[1] == 5


def test_gradients_that_are_not_finite_stay_so_and_raise_nothing():
    """As in a step that a gradient scaler leaves out."""
    bad = torch.tensor([1.0, float("inf")])
    for one in (bad, bad / bad * float("nan")):
        (merged,) = COMBINERS["min-norm"]([[one], [torch.ones(2)]])
        assert not merged.isfinite().all()


@pytest.mark.parametrize("combine", list(COMBINERS))
@pytest.mark.parametrize("cuts", [1, 2, 4])
def test_a_step_is_the_same_however_it_is_cut(combine, cuts):
    """Whole batch at once against micro-batches, for losses that are means."""
    inputs, targets = vectors(8, 5), vectors(8, 3, seed=1)

    def step(parts):
        torch.manual_seed(0)
        layer, other = torch.nn.Linear(5, 3).double(), torch.nn.Linear(5, 3).double()
        parameters = [*layer.parameters(), *other.parameters()]
        kept = PassGradients(parameters, combine)
        for x, y in zip(inputs.chunk(parts), targets.chunk(parts)):
            with kept.of("high"):
                ((layer(x) - y).square().mean() / parts).backward()
            with kept.of("low"):
                ((layer(x) + other(x)).abs().mean() / parts).backward()
        kept.merge()
        return [parameter.grad for parameter in parameters]

    for whole, cut in zip(step(1), step(cuts)):
        torch.testing.assert_close(whole, cut)


def test_the_sum_is_one_backward_of_the_summed_losses():
    layer = torch.nn.Linear(5, 3).double()
    losses = (lambda: layer(vectors(4, 5)).square().mean(), lambda: layer(vectors(4, 5, seed=3)).abs().mean())
    kept = PassGradients(list(layer.parameters()), "sum")
    for name, loss in zip("ab", losses):
        with kept.of(name):
            loss().backward()
    kept.merge()
    found = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    sum(loss() for loss in losses).backward()
    for mine, wanted in zip(found, layer.parameters()):
        torch.testing.assert_close(mine, wanted.grad)


def test_too_many_passes_are_refused():
    with pytest.raises(ValueError, match="at most of 10 passes"):
        min_norm_weights(torch.eye(11))
