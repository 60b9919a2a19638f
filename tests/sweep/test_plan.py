"""What is to be run: the points of a space in their order, and what is refused before anything is loaded."""

import json

import pytest

from hf_mpq.sweep import Plan
from hf_mpq.sweep.axes import Choices, Range, axis_of


def test_a_list_are_choices_two_ends_a_range_and_anything_else_one_value():
    assert axis_of("bits", [[2, 4], 8]) == Choices(([2, 4], 8))
    assert axis_of("bits", [[2, 4], 8]).words() == ["[2, 4]", 8]
    assert axis_of("mask", {"name": "element"}) == Choices(({"name": "element"},))
    assert axis_of("learning_rate", {"low": 1e-5, "high": 1e-3, "log": True}) == Range(1e-5, 1e-3, log=True)
    assert Range(1, 4).whole and not Range(1.0, 4).whole


@pytest.mark.parametrize(
    "given, words",
    [
        ([], "no choices"),
        ([2, 2], "twice"),
        ({"low": 1}, "low, high"),
        ({"low": 1, "high": 2, "by": 1}, "low, high"),
        ({"low": 2, "high": 1}, "below high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "above zero"),
        ({"low": "1e-5", "high": 1.0}, "1.0e-5"),
        ({"low": True, "high": 2}, "no number"),
        ({"low": 1, "high": float("inf")}, "below high"),
        ({"low": 1, "high": 9, "step": -1}, "step"),
    ],
)
def test_an_axis_that_is_none(given, words):
    with pytest.raises(ValueError, match=words):
        axis_of("learning_rate", given)


def test_every_point_comes_once_and_the_first_seed_of_all_first(plan):
    space = {"budget": ["4bits", "3bits"], "seed": [0, 1], "learning_rate": [1e-4, 2e-4], "bits": [[2, 3, 4]]}
    found = list(plan(tasks=("sst2", "cola"), space=space).points())
    keys = [(task, point["seed"], point["learning_rate"], point["budget"]) for task, point in found]
    assert len(set(keys)) == len(keys) == 16
    assert keys == sorted(keys, key=lambda key: key[1]) and keys[0] == ("sst2", 0, 1e-4, "4bits")
    assert all(point["bits"] == [2, 3, 4] for _, point in found), "a list within the list is one value"


@pytest.mark.parametrize(
    ("method", "words"), [("vertical", "serves every one of its precisions"), ("bigger-faster", "takes no budget")]
)
def test_a_method_that_would_refuse_every_budget_is_refused_before_anything_runs(method, words, plan):
    assert plan(space={"method": [method]}).tasks
    with pytest.raises(ValueError, match=words):
        plan(space={"method": ["uniform", method], "budget": ["3bits"]})


def test_what_else_is_varied_is_the_variant_of_a_row(plan):
    made = plan(space={"learning_rate": [1e-4, 1.00001e-4], "bits": [[2, 4], 4], "budget": [["4bits", "1MB"]]})
    keys = [made.key(task, point) for task, point in made.points()]
    assert len({key["variant"] for key in keys}) == 4, "digits are not cut: a key is of one point"
    assert keys[0] == {
        "task": "sst2",
        "method": "uniform",
        "variant": "learning_rate=0.0001, bits=[2, 4]",
        "budget": "4bits + 1MB",
        "seed": 0,
    }


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"tasks": ()}, "needs a task"),
        ({"tasks": ("sst3",)}, "did you mean 'sst2'"),
        ({"objectives": ("size",)}, "the known ones are: agreement"),
        ({"objectives": ()}, "objective"),
        ({"objectives": ("kl",), "tasks": ("sst2", "squad")}, "squad has no kl"),
        ({"trials": 0}, "1 or more"),
        ({"space": {"method": ["mpq", "aq-brt"]}}, "did you mean 'aq-bert'"),
        ({"space": {"method": ["mpq", "hawq-v3"]}}, "not trained"),
        ({"space": {"budget": ["3bits", "3"]}}, "has no unit"),
        ({"space": {"learning_rte": [1e-4]}}, "did you mean 'learning_rate'"),
        ({"space": {"output_dir": "x"}}, "unknown name in the space"),
        ({"space": {"storage": "packed"}}, "unknown name in the space"),
        ({"space": {"bits": [4, 11]}}, "11"),
        ({"space": {"quantizer": ["lsq", "lsk"]}}, "did you mean"),
        ({"space": {"learning_rate": {"low": 1e-5, "high": 1e-4}}}, "give trials"),
        ({"space": {"budget": {"low": 1, "high": 4}}, "trials": 2}, "give choices"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, words, plan):
    with pytest.raises(ValueError, match=words):
        plan(**changes)


def test_methods_and_tasks_are_spelt_as_they_are_registered(plan):
    made = plan(tasks=("SST2",), space={"method": ["MPQ", "uniform"]})
    assert made.tasks == ("sst2",) and made.space["method"] == ["mpq", "uniform"]
    assert plan(space={"method": ["MPQ"]}).to_dict() == plan(space={"method": "mpq"}).to_dict()


def test_a_folder_keeps_its_plan_and_takes_no_other(plan, tmp_path):
    given = {"space": {"budget": ["4bits", "3bits"], "learning_rate": {"low": 1e-5, "high": 1e-4}}, "trials": 2}
    plan(**given).keep(tmp_path)
    assert Plan.load(tmp_path).to_dict() == plan(**given).to_dict()
    plan(**given | {"trials": 4}).keep(tmp_path)
    for changes in ({"space": {**given["space"], "budget": ["4bits", "2bits"]}}, {"train_rows": 3}, {"trials": None}):
        if changes == {"trials": None}:
            changes = {"trials": None, "space": {"budget": ["4bits", "3bits"]}}
        with pytest.raises(ValueError, match=r"another sweep: .* was .* and is now .*another --out"):
            plan(**given | changes).keep(tmp_path)


def test_a_plan_that_is_missing_or_damaged(plan, tmp_path):
    with pytest.raises(ValueError, match=r"no sweep\.json: say what"):
        Plan.load(tmp_path)
    (tmp_path / "sweep.json").write_text('{"model": ')
    with pytest.raises(ValueError, match="damaged"):
        Plan.load(tmp_path)
    (tmp_path / "sweep.json").write_text(json.dumps({"modle": "x", "tasks": []}))
    with pytest.raises(ValueError, match=r"no plan of a sweep .*modle"):
        Plan.load(tmp_path)
