"""The order of a teacher as a loss."""

import pytest
import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_mpq.training.objectives import OBJECTIVES, Signals
from tests.tiny import tiny_model


def signals(*scores: float) -> Signals:
    return Signals(SequenceClassifierOutput(logits=torch.tensor(scores).unsqueeze(1)))


@pytest.fixture(scope="module")
def objective():
    model = tiny_model("bert", num_labels=1, num_hidden_layers=1)
    return OBJECTIVES["ranking"](model, model)


def test_only_gaps_count(objective):
    assert float(objective(signals(1.0, 0.0, -2.0), signals(6.0, 5.0, 3.0), {})) == pytest.approx(0, abs=1e-6)
    near = objective(signals(1.0, 0.5, -2.0), signals(1.0, 0.0, -2.0), {})
    far = objective(signals(-2.0, 0.0, 1.0), signals(1.0, 0.0, -2.0), {})
    assert 0 < float(near) < float(far)


def test_it_is_the_divergence_of_each_pair(objective):
    ours, theirs = signals(0.3, -0.4), signals(1.0, 0.5)
    p, q = torch.tensor(0.5).sigmoid(), torch.tensor(0.7).sigmoid()
    want = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert float(objective(ours, theirs, {})) == pytest.approx(float(want), rel=1e-4)


def test_the_gradient_moves_the_order(objective):
    ours = signals(0.0, 0.0)
    ours.outputs["logits"].requires_grad_()
    objective(ours, signals(2.0, -2.0), {}).backward()
    first, second = ours.outputs["logits"].grad.flatten()
    assert first < 0 < second


def test_a_single_row_has_no_order(objective):
    assert float(objective(signals(1.0), signals(2.0), {})) == 0


def test_models_of_classes_are_refused(objective):
    wrong = Signals(SequenceClassifierOutput(logits=torch.zeros(2, 3)))
    with pytest.raises(ValueError, match=r"one logit for each row, \(batch, 1\), this model gives \(2, 3\)"):
        objective(wrong, wrong, {})
    with pytest.raises(ValueError, match="above zero"):
        OBJECTIVES["ranking"](tiny_model("bert"), tiny_model("bert"), temperature=0)
