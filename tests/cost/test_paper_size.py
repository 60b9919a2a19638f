"""Sizes that papers print for the BERT-base encoder."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_mpq.core import ModelShape, Usage
from hf_mpq.cost import COSTS, AverageBits, PaperSize


def test_the_float_encoder(bert_base):
    assert PaperSize(bert_base).float_mib == pytest.approx(324.457, abs=5e-4)


@pytest.mark.parametrize("bits, mib", [(8, 81.11), (4, 40.61), (3, 30.49), (2, 20.36), (0, 0.11)])
def test_uniform_bits(bert_base, uniform, one_hot, bits, mib):
    paper, assignment = PaperSize(bert_base), uniform(bert_base, bits)
    assert paper.of(assignment) == pytest.approx(mib, abs=5e-3)
    assert float(paper.expected(one_hot(bert_base, assignment))) == pytest.approx(paper.of(assignment))


def test_half_of_the_layers(bert_base, uniform):
    full = uniform(bert_base, 8)
    half = {name: matrix for name, matrix in full.matrices.items() if int(name.split(".")[2]) % 2}
    dropped = type(full)(half, shape=ModelShape(layers=(1, 3, 5, 7, 9, 11)))
    assert PaperSize(bert_base).of(dropped) == pytest.approx(PaperSize(bert_base).of(full) / 2)


@pytest.mark.parametrize("name", ["paper", "bits"])
def test_expectation_meets_the_exact_cost(make_space, random, one_hot, name):
    space = make_space()
    cost, assignment = COSTS[name](space), random(space)
    assert float(cost.expected(one_hot(space, assignment))) == pytest.approx(cost.of(assignment), rel=1e-12)
    assert float(cost.expected(one_hot(space, assignment, False))) == pytest.approx(cost.of(assignment), rel=1e-12)


@pytest.mark.parametrize("bits", [0, 2, 3, 8])
def test_average_of_uniform_bits(make_space, uniform, bits):
    space = make_space()
    assert AverageBits(space).of(uniform(space, bits)) == pytest.approx(bits)


def test_average_bits_leave_dead_columns_out(make_space, uniform):
    space = make_space(layers=1, width=64, inner=128, groups=2)
    weights = 4 * 64 * 64 + 2 * 64 * 128
    matrices = dict(uniform(space, 4).matrices)
    matrices["encoder.layer.0.intermediate.dense"] = type(matrices["encoder.layer.0.output.dense"])((4, 0))
    assignment = type(uniform(space, 4))(matrices)
    assert AverageBits(space).of(assignment) == pytest.approx(4 * (weights - 64 * 64 - 64 * 64) / weights)


@pytest.mark.parametrize("name", ["paper", "bits", "size"])
def test_the_expected_cost_can_be_trained(make_space, name):
    space = make_space(groups=4)
    logits = {key: torch.zeros(4, 5, requires_grad=True) for key in space.weights}
    usages = {key: usage_of(torch.softmax(value, 1), space.weights[key].candidates) for key, value in logits.items()}
    COSTS[name](space).expected(usages).backward()
    for value in logits.values():
        assert value.grad.isfinite().all()
        assert (value.grad[:, -1] > 0).all() and (value.grad[:, 0] < 0).all()


class Count(TorchDispatchMode):
    """Of operators that are no views."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["paper", "bits"])
def test_where_no_column_can_be_lost_all_sub_groups_are_added_up_at_once(make_space, uniform, one_hot, name):
    counts = []
    for layers in (1, 4):
        space = make_space(layers, candidates=(2, 4, 8))
        usages, cost = one_hot(space, uniform(space, 4)), COSTS[name](space)
        exact = cost.of(uniform(space, 4))
        cost.expected(usages)  # makes constants
        with Count() as counted:
            assert float(cost.expected(usages)) == pytest.approx(exact, rel=1e-12)
        counts.append(counted.count)
    assert counts[0] == counts[1] <= 8


def usage_of(probabilities, candidates):
    bits = torch.tensor(candidates, dtype=probabilities.dtype)
    return Usage(probabilities @ bits, probabilities[:, bits > 0].sum(1), probabilities)
