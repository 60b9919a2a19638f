"""Whatever JSON holds where one of our tables belongs: read, or one error."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from hf_mpq import Assignment, MPQConfig
from hf_mpq.core import MatrixStorage, SubgroupLayout
from hf_mpq.format import PackedFormatError
from hf_mpq.plugin.written import Fields, read_matrix, reading

SHAPE = (12, 8)
_NUMBERS = some.integers(-2, 40) | some.integers() | some.floats()
_SCALARS = some.none() | some.booleans() | _NUMBERS | some.text(max_size=4)
_JSON = some.recursive(
    _SCALARS,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_SOUND = MatrixStorage.of(SubgroupLayout(SHAPE, 4), (4, 4, 8, 0), {4: 1, 8: 1}, encoding="scaled", bias=12).to_dict()
_FEW = settings(
    max_examples=150, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


def changed(content, sound, more=()):
    """The sound table with some fields drawn anew."""
    names = some.sampled_from([*sound, *more])
    return some.dictionaries(names, content, min_size=1, max_size=3).map(lambda fields: sound | fields)


@_FEW
@given(changed(_JSON, _SOUND, ("nested", "rank", "affine", "keep_of", "activation", "scale_dtype")))
def test_matrices(content):
    try:
        with reading("it"):
            stored = read_matrix(content, SHAPE, True)
    except PackedFormatError as error:
        assert "copy or download the folder again" in str(error)
    else:
        assert 0 <= stored.total_bytes < 10**8


@_FEW
@given(some.fixed_dictionaries({}, optional=dict.fromkeys(Fields.__annotations__, _JSON)))
def test_configs(content):
    try:
        MPQConfig.from_dict(content)
    except PackedFormatError as error:
        assert "again" in str(error) or "upgrade" in str(error)


@_FEW
@given(
    some.fixed_dictionaries(
        {"matrices": _JSON | some.dictionaries(some.text(max_size=2), _JSON, max_size=2)},
        optional={"activation_bits": _JSON, "layers": _JSON},
    )
)
def test_assignments(content):
    try:
        Assignment.from_dict(content)
    except ValueError as error:
        assert str(error)


def test_the_schema_has_every_field():
    """A field that a config has and the schema lacks would be read unchecked."""
    assert set(Fields.__annotations__) == set(MPQConfig.__dataclass_fields__)
    with pytest.raises(PackedFormatError, match="Field 'groups'"):
        MPQConfig.from_dict({"groups": [1]})
