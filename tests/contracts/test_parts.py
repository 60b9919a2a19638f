"""A registered name with options is written in the same ways everywhere, and checked where it is written."""

import copy
import json
import pickle
import re
from dataclasses import fields, replace

import pytest

import hf_mpq
from hf_mpq import MPQConfig, MPQTrainingArguments, Part
from hf_mpq.cli.errors import UserError
from hf_mpq.cli.typed import WORDS, checked_part
from hf_mpq.compression.choices import DEFAULT, choice_of
from hf_mpq.compression.choices import SLOTS as TRAINING_FREE
from hf_mpq.core import METHODS, BudgetError, MethodSpec, StageSpec, budgets_of
from hf_mpq.core.registry import options_of
from hf_mpq.cost import limits_of
from hf_mpq.outliers import OUTLIERS
from hf_mpq.plugin.config_checks import SLOTS
from hf_mpq.plugin.space import space_of
from hf_mpq.search.schedules import SCHEDULES
from hf_mpq.search.strategies import STRATEGIES
from hf_mpq.search.strategies.penalties import PENALTIES
from hf_mpq.training.objectives import OBJECTIVES
from hf_mpq.training.run.plan import plan_of
from hf_mpq.weights import TRANSFORMS
from tests.tiny import tiny_batch, tiny_model

COMPRESS = {**TRAINING_FREE, "outliers": OUTLIERS}
ALL = {
    **SLOTS,
    "transforms": TRANSFORMS,
    **COMPRESS,
    "objectives": OBJECTIVES,
    "schedules": SCHEDULES,
    "strategy": STRATEGIES,
    "penalty": PENALTIES,
}
EVERY = [(slot, name) for slot, registry in ALL.items() for name in registry]
OF_CONFIGS = [(slot, name) for slot, name in EVERY if slot in SLOTS]


def an_option(registry, name):
    """One that may be given."""
    return next(iter(sorted(set(options_of(registry[name]) or ()) - set(registry._passed))), None)


def with_option(slot, name):
    option = an_option(ALL[slot], name)
    return Part(name, **({} if option is None else {option: [1, {"deep": (2, None)}]}))


def three_ways(part):
    """And the text of a command line, which is JSON."""
    mapping = {"name": part.name, **part.options}
    return [mapping, part, *([] if part.options else [part.name])], json.dumps(mapping)


@pytest.mark.parametrize(("slot", "name"), EVERY)
def test_every_registered_name_is_written_in_three_ways(slot, name):
    part = with_option(slot, name)
    ways, text = three_ways(part)
    assert {Part.of(way, ALL[slot]) for way in ways} == {part} and Part.of(name.upper(), ALL[slot]) == Part(name)
    assert Part.parse(text) == part == Part.of(json.loads(json.dumps(part.written)))
    for option, value in part.options.items():
        assert Part.parse(f"{name}:{option}={json.dumps(value)},more=word").options == {
            option: value,
            "more": "word",
        } | (json.loads(json.dumps(part.options)))
    assert Part.parse(name) == Part(name)
    assert "name" not in (options_of(ALL[slot][name]) or ()), "it could not be written"
    with pytest.raises(ValueError, match=f"unknown {ALL[slot].kind} .*did you mean {name!r}".replace("+", r"\+")):
        Part.of({**ways[0], "name": name + "?"}, ALL[slot])
    known = an_option(ALL[slot], name) or "none"
    with pytest.raises(ValueError, match=rf"unknown option of .*{re.escape(repr(name))}: 'magic'; .*{known}"):
        Part.of(Part(name, magic=1), ALL[slot])


def test_a_part_never_changes_and_is_equal_to_what_is_read_back():
    part = Part("lsq", start=[1, (2, {"a": 3})])
    part.options["start"].append(4)
    assert part == Part("lsq", start=(1, [2, {"a": 3}])) != Part("lsq") and part in {Part.of(part.written)}
    assert copy.deepcopy(part) == part == pickle.loads(pickle.dumps(part)) and eval(repr(part)) == part
    with pytest.raises(AttributeError, match="never changes"):
        part.name = "minmax"
    for wrong in (None, 4, {}, {"start": 1}, {"name": 4}, ["lsq"], {"name": "lsq", 4: 5}):
        with pytest.raises(ValueError, match="a name"):
            Part.of(wrong)
    with pytest.raises(ValueError, match="an option 'name'"):
        Part("lsq", **{"name": "minmax"})
    for wrong in ("{", '{"draws": 8}'):
        with pytest.raises(ValueError, match=r"no JSON|a name"):
            Part.parse(wrong)


def in_config(slot, part, **more):
    """A config with this part, and whatever it needs beside."""
    if slot == "quantizer" and Part.of(part).name == "nested":
        more |= {"nested": True, "bits": (2, 4)}
    if slot == "gate" and Part.of(part).name != "fixed":
        more |= {"bits": (2, 4)}
    return MPQConfig(**{slot: part}, **more)


@pytest.mark.parametrize(("slot", "name"), OF_CONFIGS)
def test_a_config_takes_all_of_them_with_the_twin_of_old_files_too(slot, name):
    part = with_option(slot, name)
    more = {"nested": True, "bits": (2, 4)} if (slot, name) == ("gate", "switch") else {}
    ways, _ = three_ways(part)
    old = in_config(slot, name, **{f"{slot}_options": part.options}, **more)
    assert old.part(slot) == part
    for way in ways:
        config = in_config(slot, way, **more)
        written = json.loads(json.dumps(config.to_dict()))
        assert config == old and written[slot] == name and MPQConfig.from_dict(written).part(slot) == part
        new = {key: value for key, value in written.items() if key != f"{slot}_options"}
        assert MPQConfig.from_dict({**new, slot: json.loads(json.dumps(part.written))}).part(slot) == part
        assert replace(config, scale_dtype="float32").part(slot) == part
    misspelt = {"name": name, "magic": 1}
    for way in (misspelt, Part.of(misspelt)):
        with pytest.raises(ValueError, match=f"unknown option of .*{re.escape(name)}': 'magic'; the known"):
            in_config(slot, way, **more)
    if part.options:
        with pytest.raises(ValueError, match=f"{slot}_options.* stands beside it: leave out one of them"):
            in_config(slot, part, **{f"{slot}_options": {"other": 1}}, **more)


@pytest.mark.parametrize(("slot", "name"), [one for one in OF_CONFIGS if one[0] != "activation"])
def test_rules_take_all_of_them(slot, name):
    part = with_option(slot, name)
    found = [MPQConfig(rules={"query": {slot: way, "bits": 4}}).rules for way in three_ways(part)[0]]
    assert all(one["query"][slot] == name for one in found)
    assert all(one["query"].get(f"{slot}_options", {}) == part.options for one in found)
    with pytest.raises(ValueError, match=f"unknown option of .*{re.escape(name)}': 'magic'"):
        MPQConfig(rules={"query": {slot: Part(name, magic=1)}})


def test_a_rule_and_a_part_say_all_of_it():
    """Options that the config, or its method, has for another one are not taken over."""
    config = MPQConfig(quantizer=Part("symmetric", scale="max"), rules={"query": {"quantizer": {"name": "lsq"}}})
    specs = config.resolve(tiny_model("bert")).weights
    chosen = {(spec.quantizer, tuple(spec.quantizer_options)) for spec in specs.values() if spec.role == "encoder"}
    assert chosen == {("symmetric", ("scale",)), ("lsq", ())}
    assert MPQConfig(method="q8", activation={"name": "static"}).activation_options == {}
    assert MPQConfig(method="q8", activation="static").activation_options == {"symmetric": True}


@pytest.mark.parametrize("slot", COMPRESS)
def test_methods_and_compress_take_all_of_them(slot):
    for name in COMPRESS[slot]:
        part = with_option(slot, name)
        ways, _ = three_ways(part)
        specs = [MethodSpec("m", "p", **{slot: way}) for way in ways]
        assert all(spec == specs[0] for spec in specs)
        asked = {"method": None, **dict.fromkeys(COMPRESS), "bias_correction": None}
        chosen = [choice_of(DEFAULT, **{**asked, slot: way}) for way in ways]
        assert all(one == replace(DEFAULT, **{slot: part, **twin(slot)}) for one in chosen)
        with pytest.raises(ValueError, match=f"unknown option of .*{re.escape(name)}': 'magic'; the known"):
            hf_mpq.compress(tiny_model("bert"), "50%", [tiny_batch()], **{slot: {"name": name, "magic": 1}})


def twin(slot):
    return {f"{slot}_options": {}} if slot in TRAINING_FREE else {}


@pytest.mark.parametrize("name", [*STRATEGIES])
def test_stages_take_all_of_them(name, tmp_path):
    part = with_option("strategy", name)
    ways, _ = three_ways(part)
    specs = [StageSpec("search", strategy=way, objectives=["task", Part("soft-labels", weight=2)]) for way in ways]
    assert all(spec == specs[0] for spec in specs) and specs[0].strategy_options == part.options
    assert specs[0].objectives == {"task": {}, "soft-labels": {"weight": 2}}
    for way in ways:
        changes = {"search": {"strategy": way, "objectives": ["task"], "schedules": [*SCHEDULES]}}
        args = MPQTrainingArguments(str(tmp_path), stages=changes, use_cpu=True)
        json.loads(args.to_json_string())
        stage = plan_of(METHODS["mpq"], args, True)[0]
        expected = part.options or METHODS["mpq"].stages[0].strategy_options
        assert (stage.strategy, stage.objectives) == (name, {"task": {}}) and list(stage.schedules) == [*SCHEDULES]
        assert stage.strategy_options == (expected if isinstance(way, str) else part.options)


@pytest.mark.parametrize(
    "field", [{"strategy": Part("joint", strat="bits")}, {"objectives": [Part("task", magic=1)]}]
    + [{"schedules": {name: {"magic": 1}}} for name in SCHEDULES]
    + [{"strategy": Part("joint", penalty={"name": name, "magic": 1})} for name in PENALTIES],
)  # fmt: skip
def test_what_is_misspelt_in_a_stage_is_said_before_anything_is_trained(field, tmp_path):
    args = MPQTrainingArguments(str(tmp_path), stages={"search": field}, use_cpu=True)
    with pytest.raises(ValueError, match=r"unknown option of .*; .*the known ones are"):
        plan_of(METHODS["mpq"], args, True)


def test_parts_of_every_method_are_registered():
    for method in map(METHODS.__getitem__, METHODS):
        for slot in TRAINING_FREE:
            if getattr(method, slot) is not None:
                COMPRESS[slot].check_options(getattr(method, slot), getattr(method, f"{slot}_options"))
        for stage in method.stages:
            for registry, named in ((OBJECTIVES, stage.objectives), (SCHEDULES, stage.schedules)):
                assert all(Part.of({"name": name, **options}, registry) for name, options in named.items())
            if stage.strategy is not None:
                Part.of({"name": stage.strategy, **stage.strategy_options}, STRATEGIES)
        MPQConfig(method=method.name)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in TRAINING_FREE for name in WORDS[kind]])
def test_commands_take_all_of_them(kind, name):
    part = with_option(kind, name)
    _, text = three_ways(part)
    assert checked_part(kind, text) == part and checked_part(kind, name) == Part(name)
    assert checked_part(kind, f"{name}:draws=8,measure=trace,rates=[1,2]") == Part(
        name, draws=8, measure="trace", rates=[1, 2]
    )
    with pytest.raises(UserError, match=f"unknown {kind} .*did you mean {name!r}"):
        checked_part(kind, f"{name}x:draws=8")


@pytest.mark.parametrize("name", [*TRANSFORMS])
def test_transforms_are_a_list_of_parts_too(name):
    for given in ([name], [Part(name)], [{"name": name}], {name: {}}):
        config = MPQConfig(transforms=given, rules={"query": {"transforms": given}})
        assert config.transforms == config.rules["query"]["transforms"] == {name: {}}
    with pytest.raises(ValueError, match=r"unknown option of .*'magic'"):
        MPQConfig(transforms=[Part(name, magic=1)])


def test_no_twin_is_added():
    assert [f.name for f in fields(MPQConfig) if f.name.endswith("_options")] == [f"{slot}_options" for slot in SLOTS]


@pytest.mark.parametrize(
    "budget",
    [["encoder:0.2x", "activations:0.5x"], "encoder:0.2x + activations:0.5x", ("encoder:0.2x", "activations:0.5x")],
    ids=["list", "text", "tuple"],
)
def test_budgets_of_a_config_are_checked_once_and_met_together(budget):
    config = MPQConfig(bits=(2, 8), budget=budget, embedding_bits=8, attention_bits=8)
    assert config.budgets == budgets_of(["encoder:0.2x", "activations:0.5x"])
    assert MPQConfig.from_dict(json.loads(json.dumps(config.to_dict()))).budgets == config.budgets
    made = hf_mpq.compress(tiny_model("bert"), config=config, scorer="distance", rounding="nearest")
    fixed = hf_mpq.fix(hf_mpq.quantize(tiny_model("bert"), config))
    for model in (made, fixed):
        assert model.config.quantization_config.budgets == config.budgets
        for cost, amount in limits_of(space_of(model), config.budgets):
            assert 0 < cost.of(hf_mpq.assignment_of(model)) <= amount


def test_a_list_for_compress_is_a_model_each_and_what_is_inside_an_entry_is_met_together():
    config = MPQConfig(bits=(2, 8), embedding_bits=8)
    given = ["encoder:0.15x", ("50%", "encoder:0.2x"), "25% + 6bits"]
    models = hf_mpq.compress(tiny_model("bert"), given, config=config, scorer="distance", rounding="nearest")
    for model, budget in zip(models, given, strict=True):
        for cost, amount in limits_of(space_of(model), budgets_of(budget)):
            assert cost.of(hf_mpq.assignment_of(model)) <= amount
    alone = hf_mpq.compress(tiny_model("bert"), given[1], config=config, scorer="distance", rounding="nearest")
    assert hf_mpq.assignment_of(alone) == hf_mpq.assignment_of(models[1])


def test_budgets_that_make_no_sense_are_refused():
    with pytest.raises(BudgetError, match=r"two limits of one kind \(model\): model:0.25x and model:12000000bytes"):
        MPQConfig(budget=["25%", "12MB"])
    for wrong in ([], ["25%", "12 apples"], {}):
        with pytest.raises(BudgetError, match="budget"):
            MPQConfig(budget=wrong)
