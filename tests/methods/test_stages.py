"""The stages of the methods that train: their parts exist, take their options, and fit together."""

import inspect
from dataclasses import fields

import pytest

import hf_mpq
from hf_mpq import MPQConfig, MPQTrainingArguments, assignment_of, compress, quantize, size_report
from hf_mpq.core import METHODS, budgets_of
from hf_mpq.cost import limits_of
from hf_mpq.nn import usages
from hf_mpq.search.strategies import STRATEGIES, Progress
from hf_mpq.training.objectives import OBJECTIVES
from hf_mpq.training.run.plan import decides, plan_of, shapes
from tests.tiny import tiny_batch, tiny_model

TRAINED = [name for name in METHODS if METHODS[name].stages]
SEARCHING = [name for name in TRAINED if any(decides(one) and not shapes(one) for one in METHODS[name].stages)]


def test_these_methods_train():
    assert TRAINED == [
        "aq-bert",
        "aq-bert+kd",
        "bigger-faster",
        "bsq",
        "channel-expansion",
        "channelwise",
        "class-based",
        "csq",
        "fdq",
        "ghost",
        "hyperspherical",
        "lq-nets",
        "mpq",
        "nxmiformer",
        "prune-ofa",
        "prune-ofa-pretrain",
        "q-bert",
        "q8",
        "sdq",
        "uniform",
        "vertical",
        "weight-coupling",
    ]
    assert SEARCHING == [
        "aq-bert",
        "aq-bert+kd",
        "bsq",
        "channel-expansion",
        "channelwise",
        "csq",
        "fdq",
        "mpq",
        "sdq",
        "weight-coupling",
    ]


@pytest.mark.parametrize("name", TRAINED)
def test_stages_name_parts_that_exist_and_take_their_options(name):
    known = {field.name for field in fields(MPQTrainingArguments)}
    stages = METHODS[name].stages
    assert len({stage.name for stage in stages}) == len(stages)
    ends = "searched" if METHODS[name].retraining_free else "trained"
    assert decides(stages[-1]) == (ends == "searched"), f"what is {ends} at last is the result"
    for stage in stages:
        assert stage.strategy is None or stage.strategy in STRATEGIES
        assert set(stage.arguments) <= known
        for objective, options in stage.objectives.items():
            inspect.signature(OBJECTIVES[objective]).bind("student", "teacher", **options)


@pytest.mark.parametrize("name", TRAINED)
def test_a_method_that_does_not_search_can_be_given_its_bits(name):
    spec = METHODS[name]
    searches, open_bits = name in SEARCHING, isinstance(spec.config["bits"], tuple)
    assert searches or spec.allocator is not None or not open_bits or spec.config.get("nested")


@pytest.mark.parametrize("name", SEARCHING)
def test_the_search_of_a_method_starts_on_its_config(name):
    model = quantize(tiny_model("bert"), MPQConfig(method=name, groups=4, budget="2.5bits"))
    space = model.config.quantization_config.resolve(model)
    stage = METHODS[name].stages[0]
    strategy = STRATEGIES[stage.strategy](space, limits_of(space, budgets_of("2.5bits")), **stage.strategy_options)
    scores = None
    if strategy.needs_scores:
        scores = {
            key: 4.0 ** -usage.bits.new_tensor(space.weights[key].candidates).expand(usage.probabilities.shape)
            for key, usage in usages(model).items()
            if space.weights[key].bits is None
        }
    strategy.prepare(model, scores)
    penalty = strategy.penalty(usages(model), Progress(0, 10, 5, 1))
    assert penalty is None or penalty.isfinite()
    hf_mpq.fix(model, strategy.derive(model)[1])


def test_aq_bert_starts_anew_after_its_search():
    for name in ("aq-bert", "aq-bert+kd"):
        search, retrain = METHODS[name].stages
        assert (search.strategy, search.start, retrain.start) == ("bilevel", "previous", "loaded")
        assert search.objectives == retrain.objectives
    assert METHODS["aq-bert"].stages[0].objectives == {"task": {}}


@pytest.mark.parametrize(
    "changes, found",
    [
        ({}, ("adam", {"lr": 0.05})),
        ({"optimizer": "sgd", "learning_rate": 0.01}, ("sgd", {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4})),
    ],
)
def test_channelwise_learns_its_gates_by_adam_and_the_papers_sgd_is_an_option(changes, found, tmp_path):
    model = quantize(tiny_model("bert"), MPQConfig(method="channelwise", budget="3bits"))
    space = model.config.quantization_config.resolve(model)
    args = MPQTrainingArguments(str(tmp_path), report_to="none", stages={"search": {"strategy_options": changes}})
    options = plan_of(METHODS["channelwise"], args, searching=True)[0].strategy_options
    assert options["compensate_pruned"] and options["warmup"] == 0.2, "the method's other options stay"
    assert STRATEGIES["alternating"](space, limits_of(space, budgets_of("3bits")), **options).gate_optimizer() == found


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"objectives": {"soft-label": {}}}, "objective 'soft-label'; did you mean 'soft-labels'"),
        ({"objectives": {"soft-labels": {"temprature": 2}}}, "'temprature'; did you mean 'temperature'"),
        ({"strategy": "bilvel"}, "search strategy 'bilvel'; did you mean 'bilevel'"),
        ({"strategy_options": {"optimiser": "sgd"}}, "'optimiser'; did you mean 'optimizer'"),
    ],
)
def test_what_is_misspelt_in_a_stage_is_said_before_anything_is_trained(changes, words, tmp_path):
    args = MPQTrainingArguments(str(tmp_path), report_to="none", stages={"search": changes})
    with pytest.raises(ValueError, match=words):
        plan_of(METHODS["channelwise"], args, searching=True)


def test_only_our_method_selects():
    assert [name for name in METHODS if METHODS[name].selects] == ["mpq"]


@pytest.mark.parametrize("bits, budget", [((2, 3, 4, 8), "2.5bits"), ((2, 3, 4, 8), "3.7bits")])
def test_uniform_at_a_fraction_mixes_two_neighbours(bits, budget):
    model = compress(
        tiny_model("bert"), budget, [tiny_batch()], MPQConfig(method="uniform", bits=bits, groups=8), progress=False
    )
    low = int(float(budget.removesuffix("bits")))
    encoder = [matrix.bits for name, matrix in assignment_of(model).matrices.items() if "layer" in name]
    assert {bit for bits in encoder for bit in bits} == {low, low + 1}
    wanted = float(budget.removesuffix("bits"))
    assert wanted - 0.05 < size_report(model).average_bits <= wanted


def test_q8_is_8_bits_everywhere():
    found = assignment_of(quantize(tiny_model("bert"), MPQConfig(method="q8"))).matrices
    assert {bit for matrix in found.values() for bit in matrix.bits} == {8}
    assert len(found["encoder.layer.0.output.dense"].bits) == 1
