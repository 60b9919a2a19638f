"""Every loss term against its plain formula, blind to padding, with a gradient for the student alone."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax, softmax
from transformers.modeling_outputs import (
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from hf_mpq.search.strategies import Pass
from hf_mpq.training.objectives import OBJECTIVES, Signals
from hf_mpq.training.objectives.switch import SwitchControl, open_probability
from hf_mpq.training.stage.module import StageModule
from tests.tiny import MOST, tiny_model
from tests.training.runs import collate, sentences

MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])
LAYERS, HEADS, WIDTH = 2, 4, 32
FEATURES = ("hidden", "query", "key", "value", "attention_output")
KINDS = ["soft-labels", "hidden-states", "attention-scores", "value-relations", "self-teaching"]


@pytest.fixture(scope="module")
def student():
    return tiny_model("bert")


@pytest.fixture(scope="module")
def teacher():
    return tiny_model("bert", num_hidden_layers=4)


def signals(layers=LAYERS, width=WIDTH, mask=MASK, seed=0, outputs=None, grad=False):
    generator = torch.Generator().manual_seed(seed)
    features = {
        name: [
            torch.randn(2, 5, width, generator=generator).requires_grad_(grad)
            for _ in range(layers + (name == "hidden"))
        ]
        for name in FEATURES
    }
    return Signals(outputs or classes(torch.randn(2, 3, generator=generator).requires_grad_(grad)), features, mask)


def classes(logits):
    return SequenceClassifierOutput(logits=logits)


BATCH = {"input_ids": torch.zeros(2, 5, dtype=torch.long)}


def relabelled(model, **changes):
    """The model with another config for this test."""
    changed = tiny_model("bert")
    for name, value in changes.items():
        setattr(changed.config, name, value)
    return changed


# Soft labels


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_labels_of_classes(temperature, student):
    ours, theirs = torch.randn(2, 3), torch.randn(2, 3)
    term = OBJECTIVES["soft-labels"](student, student, temperature=temperature)
    found = term(Signals(classes(ours)), Signals(classes(theirs)), BATCH)
    expected = kl_div(log_softmax(ours / temperature, -1), softmax(theirs / temperature, -1), reduction="batchmean")
    assert found == pytest.approx(float(expected) * temperature**2, rel=1e-5)


@pytest.mark.parametrize(("changes", "shape"), [({"problem_type": "regression"}, (2, 3)), ({}, (2, 1))])
def test_soft_labels_of_numbers_are_their_squared_error(changes, shape, student):
    ours, theirs = torch.randn(shape), torch.randn(shape)
    term = OBJECTIVES["soft-labels"](relabelled(student, **changes), student, temperature=3.0)
    assert term(Signals(classes(ours)), Signals(classes(theirs)), BATCH) == pytest.approx(
        float((ours - theirs).square().mean()), rel=1e-5
    )


def test_soft_labels_of_many_labels(student):
    ours, theirs = torch.randn(2, 3), torch.randn(2, 3)
    term = OBJECTIVES["soft-labels"](relabelled(student, problem_type="multi_label_classification"), student)
    both = [torch.stack([x, torch.zeros_like(x)], -1) for x in (ours, theirs)]
    expected = kl_div(log_softmax(both[0], -1), softmax(both[1], -1), reduction="none").sum(-1).mean()
    assert term(Signals(classes(ours)), Signals(classes(theirs)), BATCH) == pytest.approx(float(expected), rel=1e-4)


def test_soft_labels_of_tokens_count_each_example_alike(student):
    ours, theirs = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    sides = [Signals(TokenClassifierOutput(logits=x), mask=MASK) for x in (ours, theirs)]
    each = kl_div(log_softmax(ours, -1), softmax(theirs, -1), reduction="none").sum(-1)
    expected = (each[0].mean() + each[1, :3].mean()) / 2
    assert OBJECTIVES["soft-labels"](student, student)(*sides, BATCH) == pytest.approx(float(expected), rel=1e-5)


def test_soft_labels_of_spans_leave_padding_out(student):
    values = [torch.randn(2, 5) for _ in range(4)]
    sides = [
        Signals(QuestionAnsweringModelOutput(start_logits=values[k], end_logits=values[k + 1]), mask=MASK)
        for k in (0, 2)
    ]
    parts = [
        kl_div(log_softmax(values[k][row, :n], -1), softmax(values[k + 2][row, :n], -1), reduction="sum")
        for k in (0, 1)
        for row, n in ((0, 5), (1, 3))
    ]
    expected = float(sum(parts) / 4)
    assert OBJECTIVES["soft-labels"](student, student)(*sides, BATCH) == pytest.approx(expected, rel=1e-5)


def test_soft_labels_need_the_same_labels(student):
    term = OBJECTIVES["soft-labels"](student, student)
    with pytest.raises(ValueError, match=r"student gives \(2, 3\), the teacher \(2, 2\)"):
        term(Signals(classes(torch.zeros(2, 3))), Signals(classes(torch.zeros(2, 2))), BATCH)
    with pytest.raises(ValueError, match="temperature must be above zero"):
        OBJECTIVES["soft-labels"](student, student, temperature=0)


# Features


def token_means(error):
    """Mean over the real tokens of each example, then over examples; `(batch, tokens)`."""
    return (error[0].mean() + error[1, :3].mean()) / 2


@pytest.mark.parametrize(("reduction", "divisor"), [("sum", 1), ("mean", 3)])
def test_hidden_states(reduction, divisor, student):
    ours, theirs = signals(), signals(seed=1)
    expected = sum(
        token_means((a - b).square().mean(-1)) for a, b in zip(ours.features["hidden"], theirs.features["hidden"])
    )
    found = OBJECTIVES["hidden-states"](student, student, reduction=reduction)(ours, theirs, BATCH)
    assert found == pytest.approx(float(expected) / divisor, rel=1e-5)


@pytest.mark.parametrize("own", [True, False])
def test_a_sub_net_is_taught_by_what_teaches_layers_of_its_depth_and_first_dimensions(own, student, teacher):
    """By an earlier pass of the student of 2 layers, or by a teacher of 4."""
    part = replace(signals(1, width=16), part=True)
    whole = replace(signals(2 if own else 4, seed=1), own=own)
    ours, theirs = part.features["hidden"], whole.features["hidden"]
    pairs = [(0, 0), (1, 2 if own else 4)]
    expected = sum(token_means((ours[a] - theirs[b][..., :16]).square().mean(-1)) for a, b in pairs)
    assert OBJECTIVES["hidden-states"](student, teacher)(part, whole, BATCH) == pytest.approx(float(expected))
    last = OBJECTIVES["hidden-states"](student, teacher, layers={2: 3})
    expected = token_means((ours[1] - theirs[2 if own else 3][..., :16]).square().mean(-1))
    assert last(part, whole, BATCH) == pytest.approx(float(expected))


def test_a_sub_net_is_projected_by_a_part_of_the_projection(student):
    wider = tiny_model("bert", hidden_size=48)
    term, part = OBJECTIVES["hidden-states"](student, wider), replace(signals(width=16), part=True)
    theirs = signals(width=48, seed=1)
    weight = term.projection.weight[:, :16]
    expected = sum(
        token_means((a @ weight.T - b).square().mean(-1))
        for a, b in zip(part.features["hidden"], theirs.features["hidden"])
    )
    torch.testing.assert_close(term(part, theirs, BATCH), expected)


def test_a_shallower_student_maps_its_layers(student, teacher):
    ours, theirs = signals(), signals(4, seed=1)
    pairs = [(0, 0), (1, 2), (2, 4)]
    expected = sum(
        token_means((ours.features["hidden"][a] - theirs.features["hidden"][b]).square().mean(-1)) for a, b in pairs
    )
    assert OBJECTIVES["hidden-states"](student, teacher)(ours, theirs, BATCH) == pytest.approx(float(expected))
    chosen = OBJECTIVES["hidden-states"](student, teacher, layers={2: 3})
    expected = token_means((ours.features["hidden"][2] - theirs.features["hidden"][3]).square().mean(-1))
    assert chosen(ours, theirs, BATCH) == pytest.approx(float(expected))


def test_a_narrower_student_learns_a_projection():
    small, large = tiny_model("bert", hidden_size=16), tiny_model("bert")
    term = OBJECTIVES["hidden-states"](small, large)
    ours, theirs = signals(width=16, grad=True), signals(seed=1, grad=True)
    term(ours, theirs, BATCH).backward()
    assert term.projection.weight.shape == (32, 16) and term.projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", KINDS)
def test_an_earlier_pass_teaches_what_it_gives_itself(name, student, teacher):
    """Layers of the same place, as wide, whatever the float teacher is."""
    term, ours = OBJECTIVES[name](student, teacher), signals()
    reference = OBJECTIVES[name](student, student)
    reference.load_state_dict(term.state_dict())
    torch.manual_seed(0)
    found = term(ours, signals(seed=1).detached(), BATCH)
    torch.manual_seed(0)
    assert torch.equal(found, reference(ours, signals(seed=1), BATCH))


def test_an_earlier_pass_needs_no_projection():
    small, large = tiny_model("bert", hidden_size=16), tiny_model("bert")
    ours = signals(width=16)
    assert OBJECTIVES["hidden-states"](small, large)(ours, ours.detached(), BATCH) == 0


def products(rows, columns):
    cut = [x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (rows, columns)]
    return torch.einsum("bhid,bhjd->bhij", *cut) / (WIDTH // HEADS) ** 0.5


def test_attention_scores(student):
    ours, theirs = signals(), signals(seed=1)
    expected = 0.0
    for layer in range(LAYERS):
        a, b = (products(side.features["query"][layer], side.features["key"][layer]) for side in (ours, theirs))
        error = (a - b).square().mean(1)
        expected += (error[0].mean() + error[1, :3, :3].mean()) / 2
    assert OBJECTIVES["attention-scores"](student, student)(ours, theirs, BATCH) == pytest.approx(float(expected), 1e-5)


@pytest.mark.parametrize("relations", [("value",), ("query", "key", "value")])
def test_value_relations(relations, student, teacher):
    ours, theirs = signals(), signals(4, seed=1)
    expected = 0.0
    for name in relations:
        a, b = ours.features[name][-1], theirs.features[name][-1]
        a, b = products(a, a), products(b, b)
        for row, n in ((0, 5), (1, 3)):
            one = kl_div(log_softmax(a[row, :, :n, :n], -1), softmax(b[row, :, :n, :n], -1), reduction="none")
            expected += float(one.sum(-1).mean()) / 2
    term = OBJECTIVES["value-relations"](student, teacher, relations=relations)
    assert term(ours, theirs, BATCH) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("hidden-states", {"layers": {3: 1}}, "student has no layers .3.: name layers from 0 to 2"),
        ("hidden-states", {"layers": {}}, "maps no layer"),
        ("hidden-states", {"reduction": "max"}, "unknown reduction 'max'"),
        ("attention-scores", {"layers": {0: 1}}, "name layers from 1 to 2"),
        ("value-relations", {"relation_heads": 5}, "do not divide the widths"),
        ("value-relations", {"relations": "value"}, "must be a list"),
        ("value-relations", {"teacher_layer": 9}, "teacher has no layers"),
        ("self-teaching", {"maps": ["logits"]}, "maps must be a list"),
        ("self-teaching", {"min_open": 1.0}, "min_open must be"),
        ("self-teaching", {"norm": "group"}, "unknown norm"),
        ("self-teaching", {"temperature": 0.0}, "temperature must be above zero"),
    ],
)
def test_impossible_options_are_refused(name, options, words, student, teacher):
    with pytest.raises(ValueError, match=words):
        OBJECTIVES[name](student, teacher, **options)


@pytest.mark.parametrize("name", KINDS)
def test_a_teacher_is_needed(name, student):
    with pytest.raises(ValueError, match="needs a teacher"):
        OBJECTIVES[name](student, None)


@pytest.mark.parametrize("name", KINDS)
def test_padding_does_not_matter_and_the_teacher_gets_no_gradient(name, student):
    term = OBJECTIVES[name](student, student).eval()
    ours, theirs = signals(grad=True), signals(seed=1, grad=True)
    before = term(ours, theirs, BATCH)
    before.backward()
    assert all(x.grad is None for group in theirs.features.values() for x in group)
    assert theirs.outputs["logits"].grad is None
    reached = [x.grad for group in ours.features.values() for x in group] + [ours.outputs["logits"].grad]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in reached)
    for group in (*ours.features.values(), *theirs.features.values()):
        for feature in group:
            feature.data[1, 3:] = 100.0
    assert float(term(ours, theirs, BATCH).detach()) == pytest.approx(float(before.detach()), rel=1e-5)


# The whole module


@pytest.mark.parametrize("name", [name for name in KINDS if name != "soft-labels"])
@pytest.mark.parametrize("family", MOST)
def test_every_family_gives_its_features(family, name):
    student, teacher = tiny_model(family), tiny_model(family)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(0.9)
    module = StageModule(student, {name: OBJECTIVES[name](student, teacher)}, teacher).train()
    batch = collate(list(sentences(4)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = module(Pass(), None, **batch)
    assert terms[name].dtype == torch.float32 and float(terms[name].detach()) > 0
    terms[name].backward()
    assert any(one.grad is not None and one.grad.abs().sum() > 0 for one in student.parameters())
    assert all(one.grad is None for one in teacher.parameters())
    assert not any("teacher" in key for key in module.state_dict())


def test_labels_reach_only_objectives_that_need_them(student):
    seen = []
    handle = student.register_forward_pre_hook(lambda module, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    batch = collate(list(sentences(4)))
    for names in (["soft-labels"], ["soft-labels", "task"]):
        objectives = {name: OBJECTIVES[name](student, tiny_model("bert")) for name in names}
        StageModule(student, objectives, tiny_model("bert"))(Pass(), None, **batch)
    handle.remove()
    assert "labels" not in seen[0] and "labels" in seen[1]


def test_the_task_counts_labels_of_tokens_and_survives_a_batch_without_any():
    student = tiny_model("bert", "token")
    term, batch = OBJECTIVES["task"](student), collate(list(sentences(4, "token")))
    assert term.units(batch) == int((batch["labels"] != -100).sum())
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss = term(Signals(student(**batch)), None, batch)
    assert float(loss.detach()) == 0.0 and term.units(batch) == 0


def test_examples_without_a_label_do_not_count():
    """So that micro-batches with and without them add up to the whole batch."""
    student = tiny_model("bert", "sequence").eval()
    term, batch = OBJECTIVES["task"](student), collate(list(sentences(4)))
    batch["labels"][1:3] = -100
    whole = term(Signals(student(**batch)), None, batch)
    parts = [{name: value[start : start + 2] for name, value in batch.items()} for start in (0, 2)]
    losses = [term(Signals(student(**one)), None, one) * term.units(one) for one in parts]
    assert term.units(batch) == 2 and torch.allclose(sum(losses) / 2, whole)
    batch["labels"][:] = -100
    assert float(term(Signals(student(**batch)), None, batch).detach()) == 0.0


def test_the_task_says_what_is_missing(student):
    with pytest.raises(ValueError, match="gave no loss"):
        OBJECTIVES["task"](student)(Signals(classes(torch.zeros(2, 3))), None, BATCH)


# Self-teaching


def test_open_probability_is_that_of_a_sampled_switch():
    control = SwitchControl(8, 8, 1, "layer", 1.0).train()
    for logit in (-2.0, -0.5, 0.5, 2.0):
        logits = torch.full((20000, 1), logit)
        share = float(control.open(logits).mean())
        assert share == pytest.approx(float(open_probability(torch.tensor(logit))), abs=0.02)


def test_switches_are_zero_or_one_with_the_soft_gradient():
    logits = torch.tensor([[-1.0, 2.0]], requires_grad=True)
    switches = SwitchControl(8, 8, 2, "layer", 1.0).eval().open(logits)
    assert switches.tolist() == [[0.0, 1.0]]
    switches.sum().backward()
    soft = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, soft * (1 - soft))


def open_share(student, steps=150, **options):
    """Share of open switches after training the switches alone on fixed features."""
    torch.manual_seed(0)
    term = OBJECTIVES["self-teaching"](student, student, weight=400.0, **options).train()
    optimizer = torch.optim.Adam([one for one in term.parameters() if one.requires_grad], lr=0.01)
    ours, theirs = signals(), signals(seed=1)
    for _ in range(steps):
        optimizer.zero_grad()
        term(ours, theirs, BATCH).backward()
        optimizer.step()
    term.metrics()
    for _ in range(20):
        term(ours, theirs, BATCH)
    return term.metrics()["open_switches"]


def test_the_guard_keeps_trained_switches_from_closing(student):
    assert open_share(student, min_open=0.0) < 0.1
    assert open_share(student) > 0.4


def test_untrained_switches_have_no_gradient(student):
    term = OBJECTIVES["self-teaching"](student, student, train_switch=False, norm="batch")
    assert not any(one.requires_grad for one in term.switch.parameters())
