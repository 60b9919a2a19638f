"""First-order scores against the formula."""

import torch

from hf_mpq import MPQConfig
from hf_mpq.nn.heads import decisions_of
from hf_mpq.search import SCORERS
from hf_mpq.search.scorers.base import rounding_errors
from hf_mpq.search.scorers.sampled_loss import sampled_loss
from tests.tiny import tiny_batch, tiny_model

NAME = "encoder.layer.0.output.dense"


def prepared():
    model = tiny_model("bert", num_hidden_layers=1)
    given = [tiny_batch(), {**tiny_batch(), "input_ids": tiny_batch()["input_ids"].flip(0)}]
    return model, MPQConfig(bits=(0, 2, 4), groups=4).resolve(model), given


def gradients(model, given) -> list[torch.Tensor]:
    """Of each batch, at the size of one example's."""
    weight, generator = model.bert.encoder.layer[0].output.dense.weight, torch.Generator().manual_seed(0)
    outputs = (decisions_of(model.config, model(**batch), batch["attention_mask"]) for batch in given)
    losses = (sampled_loss(one, generator) / 3**0.5 for one in outputs)
    return [torch.autograd.grad(loss, weight)[0] for loss in losses]


def test_absolute_products():
    model, space, given = prepared()
    size = sum(gradient.abs() for gradient in gradients(model, given)) / 2
    errors = rounding_errors(model.bert.encoder.layer[0].output.dense.weight, space.weights[NAME])
    expected = torch.stack([(error.abs() * size).view(4, -1).sum(1) for error in errors], dim=1).double()
    torch.testing.assert_close(SCORERS["gradient"]().score(model, space, given)[NAME], expected)


def test_inner_products():
    model, space, given = prepared()
    errors = rounding_errors(model.bert.encoder.layer[0].output.dense.weight, space.weights[NAME])
    inner = [
        torch.stack([(error * gradient).view(4, -1).sum(1).abs() for error in errors], dim=1)
        for gradient in gradients(model, given)
    ]
    expected = sum(inner).double() / 2
    found = SCORERS["gradient"](measure="first-order").score(model, space, given)[NAME]
    torch.testing.assert_close(found, expected.flip(1).cummax(dim=1).values.flip(1))


def test_batch_size_does_not_set_the_scale():
    model, space, _ = prepared()
    one, many = ([tiny_batch(rows) for _ in range(12 // rows)] for rows in (1, 12))
    first, second = (
        sum(values.sum() for values in SCORERS["gradient"]().score(model, space, given).values())
        for given in (one, many)
    )
    assert 0.5 < first / second < 2
