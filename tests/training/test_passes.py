"""Passes of a step: their path through the gates, their terms, their teacher, and how their gradients become one."""

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax
from transformers import TrainerCallback

from hf_mpq.nn.walk import gates, matrices, take_path
from hf_mpq.search.strategies import GATE_PARAMETERS, MODEL_PARAMETERS, STRATEGIES, Pass, SearchStrategy
from hf_mpq.training.gradients import COMBINERS
from tests.tiny import outputs
from tests.training.runs import collate, quantized, sentences, trainer
from tests.training.test_gradients import still

EVERYTHING = MODEL_PARAMETERS | {GATE_PARAMETERS}
TERMS = {"task": {}, "soft-labels": {"weight": 0.5}}


def positions(model, place):
    """A path on which every sub-group takes the candidate at one place."""
    layers = ((name, layer.spec) for name, layer in matrices(model) if len(layer.spec.candidates) > 1)
    return {name: torch.full((spec.layout.count,), place % len(spec.candidates)) for name, spec in layers}


class TwoPaths(SearchStrategy):
    """The highest path learns the task, and the lowest from it; the gates themselves do not move."""

    def prepare(self, model, scores=None):
        high, low = positions(model, -1), positions(model, 0)
        self.found = (
            Pass("high", EVERYTHING, path=high, objectives=frozenset({"task"})),
            Pass("low", EVERYTHING, path=low, objectives=frozenset({"soft-labels"}), teacher="high"),
        )

    def passes(self, progress):
        return self.found


@pytest.fixture
def known(monkeypatch):
    """Registers strategies for one test."""
    return lambda name, kind: monkeypatch.setitem(STRATEGIES._items, name, kind)


class Gradients(TrainerCallback):
    """Of the first step, as the optimizer gets them."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def model():
    return still(quantized("uniform", bits=(2, 4, 8), gate="softmax"))


def of_a_run(folder, micro=1):
    record = Gradients()
    stages = {"qat": {"strategy": "two-paths", "objectives": TERMS}}
    trainer(
        model(),
        folder,
        max_steps=1,
        max_grad_norm=0.0,
        per_device_train_batch_size=8 // micro,
        stages=stages,
        gradient_accumulation_steps=micro,
        callbacks=[record],
        train_dataset=sentences(8),
    ).train()
    return record.found


def by_hand(combine):
    student, batch = model().train(), collate(list(sentences(8)))
    parameters = dict(student.named_parameters())
    high = take_path(student, positions(student, -1))(**batch)
    low = take_path(student, positions(student, 0))(**batch)
    soft = 0.5 * kl_div(
        log_softmax(low.logits, 1), log_softmax(high.logits.detach(), 1), reduction="batchmean", log_target=True
    )
    passes = [torch.autograd.grad(loss, [*parameters.values()], allow_unused=True) for loss in (high.loss, soft)]
    own = {name: _own(*grads) for name, *grads in zip(parameters, *passes) if name.endswith("quantizer.step")}
    merged = COMBINERS[combine]([[_without(own, *one) for one in zip(parameters, each)] for each in passes])
    parts = {name: [one for one in (grad, own.get(name)) if one is not None] for name, grad in zip(parameters, merged)}
    assert any(one is not None and one.any() for one in own.values()), "each path has steps of its own"
    return {name: sum(part) for name, part in parts.items() if part}


def _own(high, low):
    """Of steps: what one path alone has a gradient for."""
    return None if high is None or low is None else (high + low) * ((high == 0) | (low == 0))


def _without(own, name, grad):
    return grad if own.get(name) is None else grad * (own[name] == 0)


@pytest.mark.parametrize("combine", list(COMBINERS))
def test_the_gradient_of_a_step_is_that_of_its_passes_by_hand_however_it_is_cut(combine, tmp_path, known):
    known("two-paths", type("TwoPathsOf", (TwoPaths,), {"combine": combine}))
    wanted = by_hand(combine)
    whole, *cuts = (of_a_run(tmp_path / str(micro), micro) for micro in (1, 2, 4))
    assert whole.keys() >= wanted.keys() and not any(".gate." in name for name in wanted)
    scale = max(float(grad.abs().max()) for grad in wanted.values())
    for name, grad in wanted.items():
        torch.testing.assert_close(whole[name], grad, rtol=1e-3, atol=1e-5 * scale)
        for cut in cuts:
            torch.testing.assert_close(cut[name], grad, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (Pass("low", teacher="high"), "'high', no earlier pass"),
        (Pass("low", objectives=frozenset({"hidden-states"})), r"names \['hidden-states'\]"),
    ],
)
def test_passes_that_name_what_is_not_there(wrong, message, tmp_path, known):
    class Wrong(TwoPaths):
        def passes(self, progress):
            return (wrong,)

    known("wrong", Wrong)
    run = trainer(model(), tmp_path, max_steps=1, stages={"qat": {"strategy": "wrong", "objectives": TERMS}})
    with pytest.raises(ValueError, match=message):
        run.train()


def test_a_path_that_is_not_the_models():
    with pytest.raises(ValueError, match="no quantized matrix"):
        take_path(model(), {"encoder.layer.9.output.dense": torch.zeros(8)})


def test_passes_without_a_search_run_where_nothing_is_open(tmp_path, known):
    class Every(SearchStrategy):
        searches, combine = False, "min-norm"

        def passes(self, progress):
            return tuple(Pass(f"{bits} bits", precision=bits) for bits in (2, 4, 8))

    known("every", Every)
    student = quantized("uniform", bits=(2, 4, 8), nested=True)
    before = {name: one.clone() for name, one in student.named_parameters() if name.endswith("quantizer.scale")}
    run = trainer(student, tmp_path, max_steps=2, stages={"qat": {"strategy": "every"}})
    assert [stage.strategy for stage in run.plan] == ["every"]
    run.train()
    after = dict(run.model.named_parameters())
    assert all((before[name] != after[name]).any(0).all() for name in before), "a scale of every precision moved"


@pytest.mark.parametrize("method", ["weight-coupling", "vertical"])
def test_an_interrupted_pass_leaves_the_model_as_it_is_saved(method, tmp_path):
    """Between two passes the model is at a drawn path, or a lower precision; nobody sees it so."""
    run = trainer(quantized(method), tmp_path, max_steps=2)
    passes = []

    def interrupt(model, args):
        passes.append(model.training)
        if passes.count(True) == 2:
            raise KeyboardInterrupt

    hook = run.model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    hook.remove()
    assert all(gate.path is None for gate in gates(run.model).values())
    run.save_packed(tmp_path / "packed")
    packed = type(run.model).from_pretrained(tmp_path / "packed")
    torch.testing.assert_close(outputs(run.model)[0], outputs(packed)[0], atol=1e-5, rtol=0)
