import copy
import json
import pickle

import pytest

from hf_mpq.core import (
    ActivationSpec,
    Assignment,
    MatrixAssignment,
    ModelShape,
    PrecisionSpace,
    SubgroupLayout,
    WeightSpec,
)

FULL = Assignment(
    {
        "a": MatrixAssignment((0, 2, 4)),
        "b": MatrixAssignment((8, 8), keep_of=(2, 4), nested=(2, 4, 8)),
    },
    {"a": 8},
    ModelShape(layers=(0, 2), hidden=6, heads=(1, 2), rows=(4, 8)),
)


@pytest.mark.parametrize("assignment", [FULL, Assignment({}), Assignment({"a": MatrixAssignment((2,))})])
def test_json_round_trip(assignment, tmp_path):
    assert Assignment.from_dict(json.loads(json.dumps(assignment.to_dict()))) == assignment
    assignment.save(tmp_path / "assignment.json")
    assert Assignment.load(tmp_path / "assignment.json") == assignment


def test_defaults_are_not_written():
    assert Assignment({"a": MatrixAssignment((2,))}).to_dict() == {
        "matrices": {"a": {"bits": (2,)}},
        "activation_bits": {},
    }


def test_it_can_be_copied_and_pickled_but_not_changed():
    assert copy.deepcopy(FULL) == pickle.loads(pickle.dumps(FULL)) == FULL
    with pytest.raises(TypeError):
        FULL.matrices["c"] = MatrixAssignment((2,))


def test_later_changes_of_the_given_mapping_do_not_reach_it():
    matrices = {"a": MatrixAssignment((2,))}
    assignment = Assignment(matrices)
    matrices["b"] = MatrixAssignment((4,))
    assert list(assignment.matrices) == ["a"]


def test_what_earlier_releases_wrote_is_read():
    """Layers were a field of their own; a matrix said the shape that it has anyway."""
    old = {"matrices": {"a": {"bits": [8], "shape": [4, 6], "keep_of": [2, 4]}}, "layers": [0, 2]}
    read = Assignment.from_dict(json.loads(json.dumps(old)))
    assert read == Assignment({"a": MatrixAssignment((8,), keep_of=(2, 4))}, shape=ModelShape(layers=(0, 2)))
    assert Assignment.from_dict(read.to_dict()) == read


def test_a_shape_that_says_nothing_is_none():
    assert Assignment({}, shape=ModelShape()) == Assignment({}) and Assignment({}, shape=ModelShape()).shape is None


@pytest.mark.parametrize(
    "shape, message",
    [
        ({"layers": []}, "layers of a shape: whole numbers"),
        ({"layers": [1, 0]}, "ascending"),
        ({"layers": [-1]}, "at least 0"),
        ({"layers": ["0"]}, "whole numbers"),
        ({"hidden": 0}, "at least 1"),
        ({"hidden": 2.5}, "whole numbers"),
        ({"hidden": [2]}, "whole numbers"),
        ({"heads": 2}, "whole numbers"),
        ({"layers": [0, 1], "rows": [8]}, "one entry for each layer"),
        ({"depth": 2}, "a shape has heads, hidden, layers, rows"),
        ([2], "a shape has"),
    ],
)
def test_what_is_no_shape_is_refused(shape, message):
    with pytest.raises(ValueError, match=f"not an assignment: .*{message}"):
        Assignment.from_dict({"matrices": {}, "shape": shape})


@pytest.mark.parametrize(
    "content, message",
    [
        ({"bits": [1]}, "no 'matrices'"),
        ({"matrices": {"a": {"bit": [1]}}}, "'a'.*bit"),
        ({"matrices": {"a": {}}}, "'a'.*bits"),
        ({"matrices": {"a": {"bits": 4}}}, "'a'"),
        ({"matrices": {"a": {"bits": [9]}}}, "0 \\(pruned\\) to 8"),
    ],
)
def test_what_is_no_assignment_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        Assignment.from_dict(content)


def test_histogram_and_repr_count_sub_groups():
    assert MatrixAssignment((4, 0, 4)).histogram() == {0: 1, 4: 2}
    assert repr(FULL) == "Assignment(2 matrices; sub-groups by bits: 1 at 0, 1 at 2, 1 at 4, 2 at 8)"


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"candidates": (4, 2)}, "ascending"),
        ({"candidates": (2, 2)}, "distinct"),
        ({"candidates": (2, 4), "bits": (2,)}, "1 bits given for 2"),
    ],
)
def test_bad_specs_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        WeightSpec(SubgroupLayout((4, 4), 2), **fields)


def test_a_space_has_plain_defaults():
    space = PrecisionSpace({"a": WeightSpec(SubgroupLayout((4, 4), 2), (2, 4), activation=ActivationSpec())})
    assert space.weights["a"].activation.bits == 8
    assert (space.other_bytes, space.norm_dtype) == (0, "float16")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"matrices": []}',
        '{"matrices": {"a": [4]}}',
        '{"matrices": {"a": {"bits": 4}}}',
        '{"matrices": {"a": {"bits": ["4"]}}}',
        '{"matrices": {"a": {"bits": [4.5]}}}',
        '{"matrices": {"a": {"bits": [9]}}}',
        '{"matrices": {"a": {"bitz": [4]}}}',
        '{"matrices": {}, "activation_bits": {"a": "8"}}',
        '{"matrices": {}, "activation_bits": [8]}',
        '{"matrices": {}, "layers": 3}',
        "\xff",
        "[" * 10_000,
    ],
)
def test_a_file_that_holds_none_is_named(text, tmp_path):
    (tmp_path / "bits.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"bits\.json"):
        Assignment.load(tmp_path / "bits.json")
