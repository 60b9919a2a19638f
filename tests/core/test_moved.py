"""Old import paths answer for one release, and say where the name is now."""

import re
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest

import hf_mpq

MODULES = ("", ".adapters", ".hub", ".vocabulary")
OLD = {
    f"hf_mpq.integrations{module}:{name}": new
    for module in MODULES
    for name, new in import_module(f"hf_mpq.integrations{module}")._NAMES.items()
} | {"hf_mpq.report:write_card": "hf_mpq.hub:write_card"}


@pytest.mark.parametrize("old, new", OLD.items())
def test_an_old_path_gives_the_same_and_says_where_it_is(old, new):
    with pytest.warns(DeprecationWarning, match=re.escape(new.replace(":", "."))) as said:
        module, name = old.split(":")
        exec(f"from {module} import {name} as found", given := {})
    assert given["found"] is resolve_name(new) and len({str(one.message) for one in said}) == 1


@pytest.mark.parametrize("module", MODULES)
def test_a_name_that_never_was_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = import_module(f"hf_mpq.integrations{module}").nothing


def test_the_package_itself_takes_no_old_path():
    users = [
        path
        for path in Path(hf_mpq.__file__).parent.rglob("*.py")
        if "integrations" in path.read_text() and path.parent.name != "integrations"
    ]
    assert [path.name for path in users] == ["__init__.py"]
