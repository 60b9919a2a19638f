"""Traces and eigenvalues against Hessians that are written out."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers import PretrainedConfig

from hf_mpq import MPQConfig
from hf_mpq.core import SubgroupLayout, spread
from hf_mpq.nn.heads import decisions_of
from hf_mpq.search import SCORERS
from hf_mpq.search.scorers.base import squared_errors
from hf_mpq.search.scorers.curvature import Curvature
from hf_mpq.search.scorers.passes import Batch, batches_on, eager_attention
from hf_mpq.search.scorers.task_loss import task_loss
from tests.tiny import tiny_batch, tiny_model

VALUE = "encoder.layer.0.attention.self.value"


class Regression(nn.Module):
    """Its Hessian is the second moment of its inputs."""

    config = PretrainedConfig()

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, width))

    def forward(self, x):
        return {"logits": x @ self.weight.T}


def regression_curvature(inputs: list[torch.Tensor], tolerance: float = 0.0) -> Curvature:
    model = Regression(inputs[0].shape[1])
    given = [Batch({"x": x}, {}, None) for x in inputs]
    return Curvature(model, {"w": model.weight}, given, tolerance, seed=0, progress=False)


def test_a_diagonal_hessian_needs_one_draw():
    scales = torch.tensor([1.0, 2.0, 3.0, 4.0])
    curvature = regression_curvature([torch.diag(scales)])
    layout = SubgroupLayout((1, 4), groups=2, axis=1)
    trace = curvature.traces({"w": layout}, draws=1)["w"]
    torch.testing.assert_close(trace, torch.tensor([5.0, 25.0], dtype=torch.float64) / 4)


def test_traces_of_a_quadratic_with_many_draws():
    inputs = [torch.randn(5, 6) + 0.5 for _ in range(2)]
    curvature = regression_curvature(inputs)
    trace = curvature.traces({"w": SubgroupLayout((1, 6), groups=3, axis=1)}, draws=200)["w"]
    exact = torch.cat(inputs).square().mean(0).unflatten(0, (3, 2)).sum(1).double()
    torch.testing.assert_close(trace, exact, rtol=0.2, atol=0)


def test_draws_stop_when_the_estimate_settles():
    curvature = regression_curvature([torch.eye(4)], tolerance=1e-3)
    calls = []
    curvature.model.register_forward_hook(lambda *given: calls.append(1))
    curvature.traces({"w": SubgroupLayout((1, 4))}, draws=50)
    assert len(calls) == 2


def test_eigenvalues_on_parts_of_the_data():
    inputs = [torch.randn(4, 6) * (number + 1) for number in range(5)]
    values = regression_curvature(inputs, tolerance=1e-7).eigenvalues({"all": ["w"]}, parts=2, iterations=500)["all"]
    start = 0
    for size, value in zip(spread(5, 2), values):
        part = torch.cat(inputs[start : start + size])
        exact = torch.linalg.eigvalsh(part.T @ part / len(part))[-1]
        assert float(value) == pytest.approx(float(exact), rel=1e-3)
        start += size


def small_model():
    changes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_hidden_layers": 1}
    return tiny_model("bert", **changes)


def value_space(model):
    """Only the value projection is open."""
    space = MPQConfig(bits=(0, 2, 4), groups=2).resolve(model)
    return replace(space, weights={VALUE: space.weights[VALUE]})


def explicit_hessian(model, given: list[dict]) -> torch.Tensor:
    """Of the mean loss over examples, `(64, 64)`."""
    name = f"bert.{VALUE}.weight"
    batches = batches_on(model, given)

    def loss(flat):
        outputs = (functional_call(model, {name: flat.view(8, 8)}, (), batch.inputs) for batch in batches)
        outputs = [decisions_of(model.config, one, batch.mask) for one, batch in zip(outputs, batches)]
        return sum(task_loss(output, batch) for output, batch in zip(outputs, batches)) / sum(map(len, batches))

    with eager_attention():
        weight = model.get_parameter(name).detach().flatten()
        return torch.autograd.functional.hessian(loss, weight).double()


def labelled() -> list[dict]:
    return [{**tiny_batch(), "labels": torch.tensor([0, 1, 1])}]


def test_traces_of_a_model():
    model = small_model()
    hessian = explicit_hessian(model, labelled())
    exact = hessian.diagonal().view(2, 32).sum(1)
    draws = 80
    scorer = SCORERS["hessian"](draws=draws, tolerance=0)
    space = value_space(model)
    found = scorer._traces(model, space, labelled())[VALUE]
    cross = (hessian - hessian.diagonal().diag()).view(2, 32, 64)
    deviation = (2 * cross.square().sum((1, 2)) / draws).sqrt()  # of Hutchinson's estimate with signs
    assert ((found - exact).abs() < 4 * deviation).all()
    assert deviation.max() < 0.5 * exact.abs().max(), "else the line above says nothing"


def test_eigenvalue_of_a_model_is_the_largest_in_size():
    model = small_model()
    values = torch.linalg.eigvalsh(explicit_hessian(model, labelled()))
    exact = values[values.abs().argmax()]
    scorer = SCORERS["hessian"](measure="eigenvalue", iterations=300, tolerance=1e-7)
    found = scorer.sensitivities(model, value_space(model), labelled())[VALUE]
    assert found == pytest.approx(float(exact.abs()), rel=1e-2)


def test_scores_are_curvature_per_weight_times_squared_error():
    model, space = small_model(), value_space(small_model())
    errors = squared_errors(model.bert.encoder.layer[0].attention.self.value.weight, space.weights[VALUE])
    scorer = SCORERS["hessian"](draws=4)
    trace = scorer._traces(model, space, labelled())[VALUE].clamp(min=0)
    found = scorer.score(model, space, labelled())[VALUE]
    torch.testing.assert_close(found, trace.unsqueeze(1) / 32 * errors)
    scorer = SCORERS["hessian"](measure="eigenvalue", iterations=4)
    omega = scorer.sensitivities(model, space, labelled())[VALUE]
    torch.testing.assert_close(scorer.score(model, space, labelled())[VALUE], omega / 64 * errors)


def test_spread_counts_the_deviation_over_parts():
    model = small_model()
    given = [tiny_batch(), {**tiny_batch(), "input_ids": tiny_batch()["input_ids"].flip(0)}, tiny_batch(rows=2)]
    space, common = value_space(model), {"measure": "eigenvalue", "iterations": 3, "tolerance": 0}
    none, one, two = (
        SCORERS["hessian"](spread=spread, **common).sensitivities(model, space, given)[VALUE] for spread in (0, 1, 2)
    )
    assert none < one and two - one == pytest.approx(one - none)


def test_matrices_of_a_layer_have_one_sensitivity():
    model = tiny_model("bert")
    space = MPQConfig(bits=(2, 4), rules={"word_embeddings": {"bits": (2, 4, 8)}}).resolve(model)
    scorer = SCORERS["hessian"](measure="eigenvalue", per="layer", iterations=2)
    found = scorer.sensitivities(model, space, [tiny_batch()])
    layers = [{value for name, value in found.items() if name.startswith(f"encoder.layer.{k}.")} for k in (0, 1)]
    assert len(layers[0]) == len(layers[1]) == 1 and layers[0] != layers[1]
    assert "embeddings.word_embeddings" in found
