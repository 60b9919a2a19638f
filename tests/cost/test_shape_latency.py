"""Latency of shapes: the curve is found again, never falls with size, and says how far off it is."""

from itertools import product

import pytest
import torch

from hf_mpq.cost.shape_latency import ShapeLatencies

GRID = list(product((1, 2, 4, 6), (96, 192, 384), (256, 768, 1536)))


def true(layers, hidden, rows):
    return layers * (0.05 + 1e-4 * hidden + 2e-6 * hidden * rows + 3e-6 * hidden**2) + 0.7


def table(noise=0.0, curve=true):
    generator = torch.Generator().manual_seed(0)
    factors = 1 + noise * torch.randn(len(GRID), generator=generator)
    points = [(*one, curve(*one) * float(factor)) for one, factor in zip(GRID, factors)]
    return ShapeLatencies(tuple(points[::2] + points[1::4]), tuple(points[3::4]))


def test_the_curve_is_found_again():
    found = table()
    assert max(found.errors()) < 1e-9 and len(found.errors()) == 9
    assert found.milliseconds(3, 256, 1000) == pytest.approx(true(3, 256, 1000))


def test_errors_of_noisy_times_are_about_the_noise():
    found = table(0.05)
    assert max(found.errors()) < 0.15
    assert max(abs(found.milliseconds(*one) / true(*one) - 1) for one in GRID) < 0.1


def test_more_never_takes_less():
    found = table(0.3, lambda layers, hidden, rows: 5 - 0.3 * layers + 1e-3 * hidden)
    for layers, hidden, rows in GRID:
        here = found.milliseconds(layers, hidden, rows)
        assert found.milliseconds(layers + 1, hidden, rows) >= here > 0
        assert found.milliseconds(layers, hidden + 64, rows) >= here
        assert found.milliseconds(layers, hidden, rows + 64) >= here


def test_round_trip_and_damage():
    found = table(0.1)
    assert ShapeLatencies.from_dict(found.to_dict()) == found
    with pytest.raises(ValueError, match="five points"):
        ShapeLatencies(found.points[:4])
    with pytest.raises(ValueError, match="above zero"):
        ShapeLatencies((*found.points, (1, 2, 3, float("nan"))))
