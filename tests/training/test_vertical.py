"""All precisions of a nested model, trained at once."""

import copy

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax
from transformers import TrainerCallback

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn.walk import matrices
from hf_mpq.training.gradients import min_norm_weights
from hf_mpq.weights.roles import parameters_by_precision
from tests.tiny import HEADS, tiny_model
from tests.training.runs import collate, quantized, sentences, trainer
from tests.training.test_gradients import still
from tests.training.test_passes import Gradients

SERVED = (2, 3, 4, 8)


def model(**config):
    return still(quantized("vertical", **config))


def of_a_run(folder, micro=1):
    """Gradients of the first step, however it is cut."""
    record = Gradients()
    trainer(
        model(),
        folder,
        max_steps=1,
        max_grad_norm=0.0,
        per_device_train_batch_size=8 // micro,
        gradient_accumulation_steps=micro,
        stages={"once": {"objectives": {"soft-labels": {}}}},
        callbacks=[record],
        train_dataset=sentences(8),
        save_strategy="no",
    ).train()
    return record.found


def divergence(ours, theirs):
    return kl_div(log_softmax(ours, 1), log_softmax(theirs.detach(), 1), reduction="batchmean", log_target=True)


@pytest.fixture(scope="module")
def by_hand():
    """Name to the gradient of each pass, the highest precision first."""
    student, batch = model().train(), collate(list(sentences(8)))
    teacher, found = still(tiny_model("bert", num_hidden_layers=1)).eval()(**batch).logits, []
    for bits in reversed(SERVED):
        logits = hf_mpq.set_precision(student, bits)(**batch).logits
        found.append(torch.autograd.grad(divergence(logits, teacher), [*student.parameters()], allow_unused=True))
        teacher = logits
    own = {id(one) for one in parameters_by_precision(student)}
    names = [name for name, _ in student.named_parameters()]
    passes = {name: each for name, each in zip(names, zip(*found))}
    return passes, {name for name, one in student.named_parameters() if id(one) in own}


def flat(passes, names, place):
    return torch.cat([passes[name][place].flatten() for name in names]).double()


def test_the_step_is_the_shortest_vector_that_lowers_every_loss_however_it_is_cut(by_hand, tmp_path):
    passes, own = by_hand
    whole, *cuts = (of_a_run(tmp_path / str(micro), micro) for micro in (1, 2, 4))
    shared = [n for n, each in passes.items() if n not in own and sum(g is not None for g in each) == len(SERVED)]
    gradients = torch.stack([flat(passes, shared, place) for place in range(len(SERVED))])
    weights = min_norm_weights(gradients @ gradients.T)
    wanted, scale = weights @ gradients, float(gradients.abs().max())
    assert weights.min() < 0.2 < weights.max(), "no mean of them"
    merged = torch.cat([whole[name].flatten() for name in shared]).double()
    torch.testing.assert_close(merged, wanted, rtol=1e-3, atol=1e-5 * scale)
    assert (gradients @ merged >= (1 - 1e-3) * merged.square().sum()).all(), "no precision's loss rises"
    for cut in cuts:
        torch.testing.assert_close(
            torch.cat([cut[n].flatten() for n in shared]).double(), merged, rtol=1e-3, atol=1e-5 * scale
        )


def test_scales_and_norms_of_one_precision_keep_its_own_gradient(by_hand, tmp_path):
    passes, own = by_hand
    found = of_a_run(tmp_path)
    assert {name.rpartition(".")[2] for name in own} == {"scale", "lower_weight", "lower_bias"}
    for name in own:
        each = [grad for grad in passes[name] if grad is not None]
        assert sum((grad != 0).int() for grad in each).max() == 1, "precisions have entries of their own"
        torch.testing.assert_close(found[name], sum(each), rtol=1e-3, atol=1e-6)
    alone = [name for name, each in passes.items() if sum(grad is not None for grad in each) == 1]
    assert alone, "norms of the highest precision"
    for name in alone:
        torch.testing.assert_close(found[name], passes[name][0], rtol=1e-3, atol=1e-6)


class Active(TrainerCallback):
    """Precisions that the model is at when it is evaluated, saved and seen between steps."""

    def __init__(self):
        self.seen = set()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen |= {layer.program.gate.active for _, layer in matrices(model) if layer.spec.nested}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder, record = tmp_path_factory.mktemp("vertical"), Active()
    run = trainer(quantized("vertical"), folder, num_train_epochs=1, callbacks=[record], save_strategy="no")
    run.train()
    run.save_packed(folder / "packed")
    return run, record, folder / "packed"


def test_between_steps_the_model_is_at_its_highest_precision(trained):
    assert trained[1].seen == {8}


@pytest.mark.parametrize("bits", SERVED)
@torch.no_grad()
def test_what_is_packed_is_what_was_trained_at_every_precision(bits, trained):
    run, _, folder = trained
    batch = {name: one for name, one in collate(list(sentences(8))).items() if name != "labels"}
    packed = hf_mpq.set_precision(HEADS["sequence"].from_pretrained(folder).eval(), bits)
    ours = hf_mpq.set_precision(copy.deepcopy(run.model).eval(), bits)
    layers = dict(matrices(ours))
    twins = {name: packed.get_submodule(f"bert.{name}") for name, layer in layers.items() if layer.spec.nested}
    assert twins and all(torch.equal(twin.weight, layers[name].quantized_weight()) for name, twin in twins.items())
    torch.testing.assert_close(packed(**batch).logits, ours(**batch).logits, rtol=1e-4, atol=1e-5)


def test_nested_models_are_trained_so_by_default(tmp_path):
    run = trainer(quantized(None, bits=(2, 8), nested=True), tmp_path)
    assert run.method.name == "vertical" and [stage.strategy for stage in run.plan] == ["once"]
    assert trainer(quantized("uniform", bits=(2, 8), nested=True), tmp_path).method.name == "uniform"
    config = MPQConfig(method="vertical")
    assert (config.bits, config.nested, config.gate_name) == (SERVED, True, "switch")
