"""Scores: against what they estimate, and against each other."""

import pytest
import torch
from scipy.stats import spearmanr

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import absolute_name
from hf_mpq.search import SCORERS
from hf_mpq.search.scorers import divergence, only_groups, reference_of
from hf_mpq.search.scorers.base import rounding_errors
from hf_mpq.search.scorers.moments import MomentRecorder
from hf_mpq.weights import MASKS, QUANTIZERS
from tests.tiny import HEADS, MOST, TEXTS, tiny_batch, tiny_model
from tests.weights.cases import CHOOSING

CONFIG = MPQConfig(bits=(0, 2, 3, 4, 8), groups=4)
BITS = (0, 4, 8)


def batches(count: int = 8) -> list[dict]:
    found = []
    for number in range(count):
        batch = tiny_batch()
        batch["input_ids"] = (batch["input_ids"] * (number + 1)) % 94 + 3
        found.append(batch)
    return found


SMALL = MPQConfig(bits=(0, 2, 4), groups=2, quantizer="minmax")
QUICK = {"hessian": {"draws": 2}, "kl": {"per": "matrix"}, "fisher": {"bf16": False}}


def score(scorer: str, model, config: MPQConfig, given, **options) -> dict[str, torch.Tensor]:
    return SCORERS[scorer](**{**QUICK.get(scorer, {}), **options}).score(model, config.resolve(model), given)


def snapshot(model) -> dict:
    """Everything about a model that scoring must not change."""
    return {
        "training": [module.training for module in model.modules()],
        "forward": [module.__dict__.get("forward") for module in model.modules()],
        "hooks": [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()],
        "gradients": [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
        "attention": model.config._attn_implementation,
    }


@pytest.mark.parametrize("scorer", list(SCORERS))
@pytest.mark.parametrize("family", MOST)
def test_contract(family, scorer):
    model = tiny_model(family).train()
    list(model.modules())[-1].eval()
    next(model.parameters()).requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before, space = snapshot(model), SMALL.resolve(model)
    first = score(scorer, model, SMALL, batches(2))
    assert set(first) == {name for name, spec in space.weights.items() if spec.role == "encoder"}
    for name, scores in first.items():
        assert scores.shape == (space.weights[name].layout.count, 3) and scores.dtype == torch.float64
        assert torch.isfinite(scores).all() and (scores >= 0).all()
        assert (scores.diff(dim=1) <= 0).all(), "more bits never hurt more"
    assert sum(float(scores.sum()) for scores in first.values()) > 0
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert snapshot(model) == before


@pytest.mark.parametrize("scorer", list(SCORERS))
def test_the_same_seed_gives_the_same_scores(scorer):
    model = tiny_model("deberta-v2", num_hidden_layers=1)
    first, again = (score(scorer, model, SMALL, batches(2)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("scorer", list(SCORERS))
@pytest.mark.parametrize("head", [*HEADS, *TEXTS])
def test_every_head_can_be_scored(head, scorer):
    model = tiny_model("bert", "sequence" if head in TEXTS else head, num_hidden_layers=1, **TEXTS.get(head, {}))
    scores = score(scorer, model, SMALL, batches(2))
    assert all(torch.isfinite(values).all() for values in scores.values())
    assert sum(float(values.sum()) for values in scores.values()) > 0


LABELS = {
    "sequence": {"labels": torch.tensor([1, 0, 1])},
    "token": {"labels": torch.tensor([[-100, 1, 0, 1, 1, 0, 0, 1, -100, -100, -100]] * 3)},
    "question": {"start_positions": torch.tensor([1, 5, 400]), "end_positions": torch.tensor([3, 7, 400])},
    "ranking": {"labels": torch.tensor([0.0, 4.5, 4.4])},
    "numbers": {"labels": torch.tensor([[0.0, 4.5, 4.4]] * 3)},
    "several labels": {"labels": torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]])},
}


@pytest.mark.parametrize(
    ("head", "scorer"),
    [
        (head, scorer)
        for head in LABELS
        for scorer in ("class-importance", "hessian")
        if (head, scorer) != ("numbers", "class-importance")
    ],
)
def test_labels_are_used_where_there_are_some(head, scorer):
    model = tiny_model("bert", "sequence" if head in TEXTS else head, num_hidden_layers=1, **TEXTS.get(head, {}))
    without = score(scorer, model, SMALL, batches(1))
    given = score(scorer, model, SMALL, [{**batches(1)[0], **LABELS[head]}])
    assert all(torch.isfinite(values).all() for values in given.values())
    assert any(not torch.equal(given[name], without[name]) for name in given)


@pytest.mark.parametrize("scorer", list(SCORERS))
@pytest.mark.parametrize("groups", [2, "columns:2"])
def test_tables_and_columns(groups, scorer):
    config = MPQConfig(bits=(0, 4), groups=groups, quantizer="minmax", rules={"embeddings": {"bits": (2, 4, 8)}})
    model = tiny_model("bert", num_hidden_layers=1)
    scores = score(scorer, model, config, [{**batch, "labels": torch.tensor([0, 1, 1])} for batch in batches(2)])
    for name in ("word", "position"):
        table = scores[f"embeddings.{name}_embeddings"]
        assert table.shape[1] == 3 and torch.isfinite(table).all()
        assert scorer == "hessian" or (table[:, 0] > 0).any(), "only a trace can be below zero, and count as zero"
    assert scores["encoder.layer.0.output.dense"].shape == (2, 2)


@pytest.mark.parametrize("scorer", list(SCORERS))
def test_data_is_asked_for_where_it_is_needed(scorer):
    model = tiny_model("bert", num_hidden_layers=1)
    if not SCORERS[scorer].needs_data:
        assert score(scorer, model, SMALL, [])
        return
    with pytest.raises(ValueError, match="no calibration examples were given; a few hundred"):
        score(scorer, model, SMALL, [])


@pytest.mark.parametrize("scorer", list(SCORERS))
def test_time_can_be_estimated(scorer):
    made, space = SCORERS[scorer](progress=False), SMALL.resolve(tiny_model("bert", num_hidden_layers=1))
    passes = made.forward_passes(space, 8)
    assert passes > 0 if made.needs_data else passes == 0
    assert made.forward_passes(space, 16) == 2 * passes


@pytest.mark.parametrize(
    ("scorer", "options", "message"),
    [
        ("hessian", {"measure": "norm"}, "unknown measure 'norm'; use one of 'trace', 'eigenvalue'"),
        ("hessian", {"per": "row"}, "use one of 'matrix', 'layer'"),
        ("hessian", {"draws": 0}, "draws must be a whole number of at least 1"),
        ("hessian", {"splits": 1.5}, "splits must be a whole number"),
        ("hessian", {"spread": -1}, "spread=0"),
        ("hessian", {"tolerance": -1}, "tolerance=0"),
        ("class-importance", {"criterion": "best"}, "use one of 'relative', 'absolute'"),
        ("class-importance", {"kappa": 1}, "use 0.01"),
        ("class-importance", {"tokens": "sum"}, "use one of 'max', 'mean'"),
        ("class-importance", {"bins": 0}, "bins must be a whole number"),
        ("gradient", {"measure": "second"}, "use one of 'absolute', 'first-order'"),
        ("kl", {"per": "row"}, "use one of 'group', 'matrix'"),
        ("fisher", {"draws": 0}, "draws must be a whole number"),
        ("fisher", {"form": "full"}, "use one of 'projected', 'kronecker', 'diagonal'"),
    ],
)
def test_wrong_options_name_the_right_ones(scorer, options, message):
    with pytest.raises(ValueError, match=message):
        SCORERS[scorer](**options)


@pytest.mark.parametrize(
    ("head", "scorer"),
    [
        (head, name)
        for head in ("sequence", "question", "bare")
        for name in SCORERS
        if SCORERS[name].needs_data
        and (head, name) not in {("question", "fisher"), ("question", "gradient")}  # they draw for every position
    ],
)
def test_padding_does_not_matter(head, scorer):
    model = tiny_model("bert", head, num_hidden_layers=1)
    short = batches(1)
    padded = [
        {
            name: torch.cat([value, torch.full((3, 6), 1 if name == "input_ids" else 0)], 1)
            for name, value in batch.items()
        }
        for batch in short
    ]
    first, second = (score(scorer, model, SMALL, given) for given in (short, padded))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("form, least, factor", [("projected", 0.8, 2), ("kronecker", 0.7, 5), ("diagonal", 0.5, 10)])
def test_fisher_estimates_the_divergence(form, least, factor):
    """Ranks sub-groups as measuring each of them does, better than the size of the change alone, and on its scale."""
    model = tiny_model("bert")
    given = batches(8)
    space = CONFIG.resolve(model)
    fisher = SCORERS["fisher"](form=form).score(model, space, given)
    distance = SCORERS["distance"]().score(model, space, given)
    reference, column = reference_of(model, given[:3]), CONFIG.bits.index(3)
    truth, estimates, plain = [], [], []
    for name in fisher:
        layout = space.weights[name].layout
        error = rounding_errors(model.get_submodule(absolute_name(model, name)).weight, space.weights[name])[column]
        for group in range(layout.count):
            change = only_groups(error, layout, [group])
            truth.append(float(divergence(model, {name: change}, reference).mean()))
            estimates.append(float(fisher[name][group, column]))
            plain.append(float(distance[name][group, column]))
    good = spearmanr(truth, estimates).statistic
    assert good > least and good > spearmanr(truth, plain).statistic
    assert 1 / factor < sum(estimates) / sum(truth) < factor


def test_fisher_in_bfloat16():
    model, given = tiny_model("bert"), batches(2)
    exact, quick = (score("fisher", model, SMALL, given, bf16=bf16) for bf16 in (False, True))
    for name, table in exact.items():
        assert not torch.equal(quick[name], table)
        torch.testing.assert_close(quick[name].sum(0), table.sum(0), rtol=0.05, atol=0)


def gauss_newton(model, name: str, change: torch.Tensor, given) -> float:
    """`1/2 E_n[(J dW)^T F (J dW)]`, with J dW by central differences in float64, and F of classes `diag(p) - p p^T`, of
    several labels `diag(p (1 - p))`."""
    weight, found, size = model.get_submodule(absolute_name(model, name)).weight, [], 1e-4
    for batch in given:
        logits = []
        for sign in (1, -1, 0):
            weight.data.add_(sign * size * change)
            logits.append(model(**batch).logits.detach())
            weight.data.sub_(sign * size * change)
        moved = (logits[0] - logits[1]) / (2 * size)
        if model.config.problem_type == "multi_label_classification":
            found += (0.5 * logits[2].sigmoid() * logits[2].neg().sigmoid() * moved**2).sum(-1).tolist()
            continue
        chances = logits[2].softmax(-1)
        each = 0.5 * ((chances * moved**2).sum(-1) - (chances * moved).sum(-1) ** 2)
        found += (each if each.dim() == 1 else (each * batch["attention_mask"]).sum(1)).tolist()
    return sum(found) / len(found)


@pytest.mark.parametrize(
    "rules, names",
    [
        ({}, ["encoder.layer.0.attention.self.value", "encoder.layer.1.output.dense"]),
        ({"value": {"groups": "columns:3"}}, ["encoder.layer.0.attention.self.value"]),
        (
            {"embeddings": {"bits": (2, 4), "groups": 5}},
            ["embeddings.word_embeddings", "embeddings.position_embeddings"],
        ),
    ],
    ids=["rows", "columns", "tables"],
)
def test_projected_fisher_is_the_gauss_newton_form_of_each_sub_group(rules, names):
    model, given = tiny_model("bert", num_labels=3).double(), batches(2)
    space = MPQConfig(bits=(2, 4), groups=2, rules=rules).resolve(model)
    scores = SCORERS["fisher"](draws=256).score(model, space, given)
    for name in names:
        spec = space.weights[name]
        change = rounding_errors(model.get_submodule(absolute_name(model, name)).weight, spec)[0].double()
        exact = torch.tensor(
            [
                gauss_newton(model, name, only_groups(change, spec.layout, [group]), given)
                for group in range(spec.layout.count)
            ]
        )
        torch.testing.assert_close(scores[name][:, 0].sum(), exact.sum().double(), rtol=0.15, atol=0)
        assert spearmanr(scores[name][:, 0], exact).statistic > 0.8 or spec.layout.count < 3


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_table_is_scored_with_the_decoder_that_is_tied_to_it(family):
    model, given = tiny_model(family, "masked").double(), batches(2)
    space = MPQConfig(bits=4, rules={"(word|tok)_embeddings": {"bits": (2, 4), "groups": 6}}).resolve(model)
    name = next(name for name, spec in space.weights.items() if len(spec.candidates) > 1)
    spec = space.weights[name]
    change = rounding_errors(model.get_submodule(absolute_name(model, name)).weight, spec)[0].double()
    exact = sum(
        gauss_newton(model, name, only_groups(change, spec.layout, [group]), given)
        for group in range(spec.layout.count)
    )
    projected = SCORERS["fisher"](draws=64).score(model, space, given)[name]
    kronecker = SCORERS["fisher"](form="kronecker", draws=8).score(model, space, given)[name]
    assert float(projected[:, 0].sum()) == pytest.approx(exact, rel=0.2)
    assert exact / 5 < float(kronecker[:, 0].sum()) < 5 * exact


@pytest.mark.parametrize("scorer", ["fisher", "gradient", "kl"])
def test_a_label_that_is_always_on_hides_no_other(scorer):
    """A softmax would give it nearly all of the probability, and the others would count for nothing."""
    model = tiny_model("bert", num_labels=3, problem_type="multi_label_classification", num_hidden_layers=1)
    plain = score(scorer, model, SMALL, batches(2))
    model.classifier.weight.data[0], model.classifier.bias.data[0] = 0, 30.0
    hidden = score(scorer, model, SMALL, batches(2))
    name = "encoder.layer.0.output.dense"
    assert 0.2 < float(hidden[name].sum() / plain[name].sum()) < 1.5


def test_fisher_of_several_labels_is_their_gauss_newton_form():
    model, given = tiny_model("bert", **TEXTS["several labels"], num_hidden_layers=1).double(), batches(2)
    space = MPQConfig(bits=(2, 4), groups=2).resolve(model)
    scores, name = SCORERS["fisher"](draws=256).score(model, space, given), "encoder.layer.0.output.dense"
    spec = space.weights[name]
    change = rounding_errors(model.get_submodule(absolute_name(model, name)).weight, spec)[0].double()
    exact = [gauss_newton(model, name, only_groups(change, spec.layout, [group]), given) for group in range(2)]
    torch.testing.assert_close(scores[name][:, 0], torch.tensor(exact, dtype=torch.float64), rtol=0.15, atol=0)


def test_shared_layers_are_projected_over_all_their_calls():
    model, given = tiny_model("albert", num_labels=3).double(), batches(2)
    space = MPQConfig(bits=(2, 4), groups=1).resolve(model)
    name = next(name for name in space.weights if name.endswith("ffn"))
    score = SCORERS["fisher"](draws=256).score(model, space, given)[name]
    change = rounding_errors(model.get_submodule(absolute_name(model, name)).weight, space.weights[name])[0].double()
    assert float(score[0, 0]) == pytest.approx(gauss_newton(model, name, change, given), rel=0.15)


def test_layers_with_one_input_share_its_moment():
    model = tiny_model("deberta-v2", num_hidden_layers=1)
    attention, inputs = model.deberta.encoder.layer[0].attention, []
    layers = {
        "query": attention.self.query_proj,
        "key": attention.self.key_proj,
        "value": attention.self.value_proj,
        "output": attention.output.dense,
    }
    hook = layers["query"].register_forward_hook(lambda module, given, output: inputs.append(given[0].detach()))
    batch = batches(1)[0]
    with MomentRecorder(layers) as moments:
        moments.mask = batch["attention_mask"].bool()
        model(**batch)
    hook.remove()
    hidden, positions = inputs[0][moments.mask], inputs[1].flatten(0, -2)
    torch.testing.assert_close(moments.inputs("value").total, hidden.T @ hidden)
    torch.testing.assert_close(moments.inputs("key").total, hidden.T @ hidden + positions.T @ positions)
    assert moments.inputs("key").tokens == moments.inputs("query").tokens == len(hidden) + len(positions)
    assert len(moments._moments) == 3

    bert = tiny_model("bert", num_hidden_layers=1)
    attention = bert.bert.encoder.layer[0].attention.self
    with MomentRecorder({"query": attention.query, "key": attention.key}) as moments:
        bert(**batch)
    assert moments.inputs("query") is moments.inputs("key")


def test_more_draws_lower_the_noise():
    model = tiny_model("bert", num_hidden_layers=1)
    name, given = "encoder.layer.0.output.dense", batches(2)
    few, many = (
        [score("fisher", model, SMALL, given, draws=draws, seed=seed)[name].sum() for seed in range(4)]
        for draws in (1, 8)
    )
    assert torch.stack(many).std() < torch.stack(few).std()
    assert 0.5 < sum(many) / sum(few) < 2


@pytest.mark.parametrize("mask", [None, *MASKS])
@pytest.mark.parametrize("quantizer", [name for name in QUANTIZERS if name != "nested"])
def test_what_scorers_change_is_what_quantizing_changes(quantizer, mask):
    """The mask drops the same weights, and scales are those of what it leaves."""
    name, changes = "encoder.layer.0.intermediate.dense", {"groups": 4, "quantizer": quantizer, "mask": mask}
    weight = tiny_model("bert").get_submodule(f"bert.{name}").weight.detach()
    candidates = tuple(bits for bits in BITS if bits <= QUANTIZERS[quantizer].most_bits)
    spec = MPQConfig(bits=candidates, **changes).resolve(tiny_model("bert")).weights[name]
    errors = dict(zip(candidates, rounding_errors(weight, spec)))
    torch.testing.assert_close(errors[0], -weight, rtol=0, atol=0)
    for precision in candidates[1:]:
        model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(bits=precision, **changes))
        layer = model.get_submodule(f"bert.{name}")
        torch.testing.assert_close(weight + errors[precision], layer.program(layer.weight).detach(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("mask", CHOOSING)
@pytest.mark.parametrize("scorer", [name for name in SCORERS if name != "class-importance"])
def test_scores_see_what_a_mask_drops(scorer, mask):
    """At eight bits a mask of half the weights is nearly all of the damage."""
    tables = [
        score(scorer, tiny_model("bert"), MPQConfig(bits=(0, 8), groups=2, mask=name), batches(2))
        for name in (None, mask)
    ]
    plain, masked = (sum(table.sum(0) for table in found.values()) for found in tables)
    assert masked[1] > 20 * plain[1] and masked[1] < 0.8 * masked[0], "what is left is worth something"
