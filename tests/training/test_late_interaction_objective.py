"""Scores of late interaction as a loss."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers.modeling_outputs import BaseModelOutput

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.training.objectives import OBJECTIVES, Signals
from tests.tiny import tiny_batch, tiny_model
from tests.training.runs import collate, sentences, trainer

BATCH = tiny_batch()
MASK = BATCH["attention_mask"].bool()


@pytest.fixture(scope="module")
def model():
    return tiny_model("bert", "bare", num_hidden_layers=1)


@pytest.fixture
def projection(tmp_path):
    """Writes a dense layer as sentence-transformers does."""

    def write(width=32, activation="torch.nn.modules.linear.Identity", **tensors):
        torch.manual_seed(1)
        (tmp_path / "1_Dense").mkdir(exist_ok=True)
        (tmp_path / "1_Dense" / "config.json").write_text(json.dumps({"activation_function": activation}))
        save_file({"linear.weight": torch.randn(8, width), **tensors}, tmp_path / "1_Dense" / "model.safetensors")
        return str(tmp_path / "1_Dense")

    return write


def signals(hidden, mask=MASK) -> Signals:
    return Signals(BaseModelOutput(last_hidden_state=hidden), {}, mask)


def by_hand(hidden, mask=MASK):
    """The scores of sentence-transformers, by the tokens of the first text."""
    from sentence_transformers.util.similarity import maxsim

    vectors = torch.nn.functional.normalize(hidden, dim=-1)
    return maxsim(vectors, vectors, mask, mask, length_normalize=True)


@pytest.mark.parametrize("projected", [False, True])
def test_it_is_the_squared_difference_of_maxsim(projected, model, projection):
    folder = projection() if projected else None
    matrix = torch.eye(32) if folder is None else OBJECTIVES["maxsim"](model, model, projection=folder)._matrix
    ours, theirs = torch.randn(3, 11, 32), torch.randn(3, 11, 32)
    objective = OBJECTIVES["maxsim"](model, model, projection=folder)
    squares = (by_hand(ours @ matrix.T) - by_hand(theirs @ matrix.T)).square()
    expected = (squares.sum() - squares.diagonal().sum()) / 6
    assert objective.units(BATCH) == 6
    assert float(objective(signals(ours), signals(theirs), BATCH)) == pytest.approx(float(expected), rel=1e-4)


def test_padding_has_no_part(model):
    """Nor has a batch of one text any other, and a projection is neither trained nor kept with a checkpoint."""
    objective, ours, theirs = OBJECTIVES["maxsim"](model, model), torch.randn(3, 11, 32), torch.randn(3, 11, 32)
    changed = ours.masked_fill(~MASK.unsqueeze(-1), 100.0).requires_grad_()
    found = objective(signals(changed), signals(theirs), BATCH)
    torch.testing.assert_close(found, objective(signals(ours), signals(theirs), BATCH))
    found.backward()
    assert changed.grad[MASK].abs().sum() > 0 and not changed.grad[~MASK].any()
    one = {key: value[:1] for key, value in BATCH.items()}
    assert float(objective(signals(ours[:1], MASK[:1]), signals(theirs[:1], MASK[:1]), one)) == 0


def test_a_projection_is_given(model, projection):
    objective = OBJECTIVES["maxsim"](model, model, projection=projection(**{"linear.bias": torch.ones(8)}))
    assert not objective.state_dict() and not list(objective.parameters())
    assert objective._bias.tolist() == [1.0] * 8


def test_refusals(model, projection, tmp_path):
    head = tiny_model("bert", num_hidden_layers=1)
    with pytest.raises(ValueError, match="load student and teacher with AutoModel"):
        plain = Signals(head(**BATCH), {}, MASK)
        OBJECTIVES["maxsim"](head, head)(plain, plain, BATCH)
    with pytest.raises(ValueError, match="takes 16 features, and BertModel gives 32"):
        OBJECTIVES["maxsim"](model, model, projection=projection(width=16))
    with pytest.raises(ValueError, match="holds no dense layer of sentence-transformers"):
        OBJECTIVES["maxsim"](model, model, projection=str(tmp_path))
    with pytest.raises(ValueError, match="not linear"):
        OBJECTIVES["maxsim"](model, model, projection=projection(activation="torch.nn.modules.activation.Tanh"))


def test_a_run_distils_scores(tmp_path, projection):
    """On the trainer, from a float teacher, without labels: the student's scores come nearer."""
    still = {"num_hidden_layers": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    teacher = tiny_model("bert", "bare", **still)
    student = hf_mpq.quantize(tiny_model("bert", "bare", **still), MPQConfig(bits=2, groups=10, quantizer="lsq"))
    objective = OBJECTIVES["maxsim"](teacher, teacher, projection=projection())
    rows = sentences(32).remove_columns(["labels", "idle"])
    batch = collate(list(rows))

    @torch.no_grad()
    def distance(model) -> float:
        sides = (Signals(one(**batch), {}, batch["attention_mask"].bool()) for one in (model, teacher))
        return float(objective(*sides, batch))

    run = trainer(
        student,
        tmp_path,
        teacher=teacher,
        train_dataset=rows,
        num_train_epochs=6,
        learning_rate=5e-4,
        stages={"qat": {"objectives": {"maxsim": {"projection": projection()}}}},
    )
    before = distance(student)
    run.train()
    assert distance(run.model) < 0.7 * before
