"""Measured divergences against ones computed by hand."""

import pytest
import torch
from torch.nn.functional import kl_div

from hf_mpq import MPQConfig
from hf_mpq.nn import absolute_name
from hf_mpq.search import SCORERS
from hf_mpq.search.scorers import divergence, mean_divergence, only_groups, reference_of
from hf_mpq.search.scorers.base import rounding_errors
from tests.tiny import HEADS, MOST, TEXTS, tiny_batch, tiny_model

CONFIG = MPQConfig(bits=(0, 2, 4), groups=2, quantizer="minmax")
LAST = {
    "modernbert": "layers.1.mlp.Wo",
    "distilbert": "transformer.layer.1.ffn.lin2",
    "albert": "encoder.albert_layer_groups.0.albert_layers.0.ffn",
}


def given() -> list[dict]:
    return [tiny_batch(), {name: value.flip(0) for name, value in tiny_batch().items()}]


def change(model, name: str) -> torch.Tensor:
    return 0.3 * torch.randn_like(model.get_submodule(absolute_name(model, name)).weight)


@torch.no_grad()
def outputs(model, name: str | None = None, added: torch.Tensor | None = None) -> list:
    if name is None:
        return [model(**batch) for batch in given()]
    weight = model.get_submodule(absolute_name(model, name)).weight
    before = weight.clone()
    weight += added
    after = outputs(model)
    weight.copy_(before)
    return after


def kl(before, after):
    """`(..., classes)` logits to `(...)`."""
    p, q = (logits.double().log_softmax(-1) for logits in (before, after))
    return kl_div(q, p, reduction="none", log_target=True).sum(-1)


def several(before, after):
    """`(batch, labels)` logits to `(batch,)`: of every label a yes and a no."""
    pairs = (torch.stack([torch.zeros_like(logits), logits], -1) for logits in (before, after))
    return kl(*pairs).sum(-1)


def expected(head: str, before, after, mask: torch.Tensor) -> torch.Tensor:
    if head == "question":
        hidden = torch.where(mask == 1, 0.0, -torch.inf)
        pairs = [(before[f"{side}_logits"] + hidden, after[f"{side}_logits"] + hidden) for side in ("start", "end")]
        return sum(kl(first.clamp(min=-1e30), second.clamp(min=-1e30)) for first, second in pairs)
    if head in ("token", "masked"):
        return (kl(before["logits"], after["logits"]) * mask).sum(1)
    if head == "sequence":
        return kl(before["logits"], after["logits"])
    if head == "several labels":
        return several(before["logits"], after["logits"])
    if head in ("ranking", "numbers"):
        return 0.5 * (before["logits"].double() - after["logits"].double()).square().sum(-1)
    return 0.5 * ((before[0].double() - after[0].double()).square().sum(-1) * mask).sum(1)


@pytest.mark.parametrize("head", [*HEADS, *TEXTS])
def test_divergence_of_every_head(head):
    model = tiny_model("bert", "sequence" if head in TEXTS else head, **TEXTS.get(head, {}))
    name = "encoder.layer.1.output.dense"
    added = change(model, name)
    found = divergence(model, {name: added}, reference_of(model, given()))
    values = [
        expected(head, before, after, batch["attention_mask"])
        for before, after, batch in zip(outputs(model), outputs(model, name, added), given())
    ]
    assert found.dtype == torch.float64 and found.shape == (6,) and (found > 1e-6).all()
    torch.testing.assert_close(found, torch.cat(values), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", MOST)
def test_beginning_at_the_changed_layer_is_exact(family):
    model = tiny_model(family)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    name = LAST.get(family, "encoder.layer.1.output.dense")
    added = change(model, name)
    cached, whole = (reference_of(model, given(), cache=cache) for cache in (True, False))
    assert len(cached.before([name])) == (0 if family == "albert" else 1) and not whole.before([name])
    assert torch.equal(divergence(model, {name: added}, cached), divergence(model, {name: added}, whole))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_skipped_layers_are_not_run():
    model = tiny_model("bert")
    reference, calls = reference_of(model, given()), []
    model.bert.encoder.layer[0].output.dense.register_forward_hook(lambda *args: calls.append(1))
    divergence(model, {"encoder.layer.1.output.dense": change(model, "encoder.layer.1.output.dense")}, reference)
    assert not calls
    first = {f"encoder.layer.{k}.output.dense": change(model, f"encoder.layer.{k}.output.dense") for k in (1, 0)}
    divergence(model, first, reference)
    divergence(model, {"embeddings.word_embeddings": change(model, "embeddings.word_embeddings")}, reference)
    assert len(calls) == 4


def test_no_change_diverges_nowhere_and_batches_can_be_chosen():
    model, name = tiny_model("bert"), "encoder.layer.0.output.dense"
    reference = reference_of(model, given())
    assert torch.equal(divergence(model, {}, reference), torch.zeros(6, dtype=torch.float64))
    added = change(model, name)
    both = divergence(model, {name: added}, reference)
    assert torch.equal(divergence(model, {name: added}, reference, batches=[1]), both[3:])
    with pytest.raises(ValueError, match="no matrix 'nowhere'; use the names of its resolved space"):
        divergence(model, {"nowhere": added}, reference)


def test_the_model_is_restored_after_an_error():
    model, name = tiny_model("bert"), "encoder.layer.1.output.dense"
    reference, before = reference_of(model, given()), model.bert.encoder.layer[1].output.dense.weight.clone()
    hook = model.classifier.register_forward_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        divergence(model, {name: change(model, name)}, reference)
    hook.remove()
    assert torch.equal(model.bert.encoder.layer[1].output.dense.weight, before)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_scores_are_divergences_of_single_sub_groups():
    model = tiny_model("bert", num_hidden_layers=1)
    space, name = CONFIG.resolve(model), "encoder.layer.0.output.dense"
    spec = space.weights[name]
    scores, shared = (SCORERS["kl"](per=per).score(model, space, given())[name] for per in ("group", "matrix"))
    errors = rounding_errors(model.bert.encoder.layer[0].output.dense.weight, spec)
    measured = torch.zeros(2, 3, dtype=torch.float64)
    for column, error in enumerate(errors):
        for group in range(2):
            after = outputs(model, name, only_groups(error, spec.layout, [group]))
            pairs = zip(outputs(model), after)
            measured[group, column] = torch.cat([kl(one["logits"], two["logits"]) for one, two in pairs]).mean()
    torch.testing.assert_close(scores, measured.flip(1).cummax(dim=1).values.flip(1), rtol=1e-9, atol=1e-12)
    whole = divergence(model, {name: errors[-1]}, reference_of(model, given())).mean()
    moved = errors[-1].view(2, -1).square().sum(1).double()
    torch.testing.assert_close(shared[:, -1], whole * moved / moved.sum())


def test_mean_divergence_between_two_models():
    first, second = tiny_model("bert"), tiny_model("bert")
    assert mean_divergence(first, second, given()) == 0
    name = "encoder.layer.0.output.dense"
    added = change(first, name)
    with torch.no_grad():
        second.bert.encoder.layer[0].output.dense.weight += added
    found = divergence(first, {name: added}, reference_of(first, given())).mean()
    assert mean_divergence(first, second, given()) == pytest.approx(float(found), rel=1e-9)
