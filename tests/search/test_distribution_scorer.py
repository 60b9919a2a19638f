"""K-means distortions of sub-groups."""

import pytest
import torch
from sklearn.cluster import KMeans

from hf_mpq import MPQConfig
from hf_mpq.core import SubgroupLayout
from hf_mpq.search import SCORERS
from hf_mpq.search.scorers import distortions, threshold_bits
from hf_mpq.search.scorers.kmeans import kmeans_errors
from tests.tiny import tiny_model

BITS = tuple(range(9))


def test_gaussian_weights_lose_a_factor_of_four_with_each_bit():
    weight = torch.randn(64, 1024) * 0.04
    found = distortions(weight, SubgroupLayout((64, 1024), 2), BITS)
    assert (found.diff(dim=1) < 0).all()
    constants = found[:, 4:] * 4.0 ** torch.arange(4, 9)
    assert ((constants > 2.0) & (constants < 2.85)).all(), "2.72 for many levels"
    torch.testing.assert_close(found[:, 0], torch.ones(2, dtype=torch.float64), rtol=1e-3, atol=0)
    torch.testing.assert_close(found[:, 1], torch.full((2,), 0.363, dtype=torch.float64), rtol=0.02, atol=0)


@pytest.mark.parametrize("clusters", [2, 4, 16, 64])
@pytest.mark.parametrize("kind", ["normal", "heavy", "two hills"])
def test_against_scikit_learn(kind, clusters):
    values = {
        "normal": torch.randn(2, 900),
        "heavy": torch.randn(2, 900) ** 3,
        "two hills": torch.randn(2, 900) + torch.randn(2, 900).sign() * 4,
    }[kind]
    found = kmeans_errors(values.sort(dim=1).values, clusters)
    for row, error in zip(values, found):
        best = KMeans(clusters, n_init=3, random_state=0).fit(row.double().unsqueeze(1).numpy()).inertia_ / 900
        assert float(error) < 1.06 * best


def test_two_clusters_of_a_small_sub_group_are_the_best_two():
    values = torch.randn(20, 50).sort(dim=1).values
    parts = [
        values[:, :cut].var(1, correction=0) * cut + values[:, cut:].var(1, correction=0) * (50 - cut)
        for cut in range(1, 50)
    ]
    best = torch.stack(parts, dim=1).amin(1).double() / 50
    found = kmeans_errors(values, 2)
    assert (found > 0.999 * best).all() and (found / best).median() < 1.001


def test_error_is_that_of_the_nearest_centre():
    values = torch.tensor([[0.0, 1.0, 10.0, 11.0, 12.0]])
    assert float(kmeans_errors(values, 2)) == pytest.approx((0.5 + 2.0) / 5)
    assert float(kmeans_errors(values, 256)) == 0


def test_relative_distortion_does_not_depend_on_the_scale():
    weight, layout = torch.randn(8, 64), SubgroupLayout((8, 64), 2)
    torch.testing.assert_close(distortions(weight, layout, BITS), distortions(weight * 64, layout, BITS))
    literal = distortions(weight, layout, BITS, relative=False)
    torch.testing.assert_close(literal * 64**2, distortions(weight * 64, layout, BITS, relative=False))
    torch.testing.assert_close(literal[:, 0], 1e6 * weight.double().square().view(2, -1).mean(1))


def test_unequal_constant_and_single_sub_groups():
    found = distortions(torch.randn(7, 5), SubgroupLayout((7, 5), 3), BITS)
    each = [
        distortions(part, SubgroupLayout(tuple(part.shape)), BITS)
        for part in SubgroupLayout((7, 5), 3).split(torch.zeros(7, 5))
    ]
    assert found.shape == (3, 9) and torch.isfinite(found).all()
    assert all((part == 0).all() for part in each)
    constant = distortions(torch.full((4, 1), 0.7), SubgroupLayout((4, 1), 4), (0, 2, 4))
    torch.testing.assert_close(constant, torch.tensor([[1.0, 0.0, 0.0]] * 4, dtype=torch.float64))


def test_columns_are_sub_groups_too():
    weight = torch.randn(16, 6)
    across = distortions(weight, SubgroupLayout((16, 6), 3, axis=1), BITS)
    torch.testing.assert_close(across, distortions(weight.T, SubgroupLayout((6, 16), 3), BITS))


def test_threshold_rule():
    """GHOST's closed form: the absolute threshold gives small weights 7 bits and larger ones 8."""
    table = torch.tensor([[9.0, 3.0, 0.5, 0.05], [9.0, 8.0, 7.0, 6.0], [0.01, 0.0, 0.0, 0.0]])
    assert threshold_bits(table, 0.1, candidates=(0, 2, 4, 9)).tolist() == [8, 8, 2]
    assert threshold_bits(table, 4.0, candidates=(0, 2, 4, 8)).tolist() == [2, 8, 2]
    layout = SubgroupLayout((64, 1024))
    bits = [
        int(threshold_bits(distortions(torch.randn(64, 1024) * scale, layout, range(2, 9), relative=False), 0.1))
        for scale in (0.001, 0.01, 0.02, 0.06)
    ]
    assert bits == [3, 6, 7, 8]
    with pytest.raises(ValueError, match="give the candidates of the matrix"):
        threshold_bits(table, 0.1)


def test_scorer_options():
    model = tiny_model("bert", num_hidden_layers=1)
    space = MPQConfig(bits=(0, 2, 4), groups=2).resolve(model)
    relative, literal = (SCORERS["distribution"](relative=flag).score(model, space) for flag in (True, False))
    weight = model.bert.encoder.layer[0].output.dense.weight.double().view(2, -1)
    name = "encoder.layer.0.output.dense"
    torch.testing.assert_close(relative[name], literal[name] / 1e6 / weight.var(1, correction=0).detach().unsqueeze(1))
