"""Notebooks as they are in the repository, and executed anew."""

import re
from base64 import b64decode
from io import BytesIO

import nbformat
import pytest
from matplotlib.image import imread

from tests.cli.conftest import needs_minilm
from tests.notebooks.execute import NOTEBOOKS, execute
from tests.notebooks.names import check_cell

PICTURES = {"01_quickstart": 1, "02_search_and_pareto": 4, "03_inspect_bits": 2, "04_export_and_deploy": 2}
SMALL = {
    "01_quickstart": "ROWS, TEST_ROWS = 64, 32",
    "02_search_and_pareto": "ROWS, TEST_ROWS, EXAMPLES, STEPS = 96, 32, 16, 12",
    "03_inspect_bits": "ROWS, TEST_ROWS, EXAMPLES = 64, 32, 16",
    "04_export_and_deploy": "ROWS, TEST_ROWS, EXAMPLES, ROUNDS = 256, 64, 32, 3",
}
"""Cells of parameters that make a run short."""


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook) -> list:
    return [output for cell in code(notebook) for output in cell.outputs]


def pictures(notebook) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_outputs_are_those_of_one_run(file):
    notebook = nbformat.read(file, as_version=4)
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert pictures(notebook) == PICTURES[file.stem]
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs(notebook))
    told = "".join(
        str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs(notebook)
    )
    assert "\x1b" not in told and not re.search(r"/(home|root|tmp|work|Users)/", told)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_pictures_can_be_read_on_any_page(file):
    """They bring their own background, which covers everything."""
    for output in outputs(nbformat.read(file, as_version=4)):
        if "image/png" in output.get("data", {}):
            pixels = imread(BytesIO(b64decode(output.data["image/png"])))
            assert pixels.shape[2] == 3 or pixels[..., 3].min() == 1
            assert pixels[..., :3].std() > 0


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_what_is_asked_of_the_package_is_there(file):
    known = {}
    assert sum(check_cell(cell.source, known) for cell in code(nbformat.read(file, as_version=4))) >= 8


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        ("import hf_mpq\nhf_mpq.compres(model)", AttributeError),
        ("from hf_mpq.report import bitmaps", ImportError),
        ("import hf_mpq\nhf_mpq.size_report(folder=4)", TypeError),
        ("%%bash\nhf-mpq doctor folder --quik", TypeError),
    ],
)
def test_what_is_not_there_is_found(cell, error):
    with pytest.raises(error):
        check_cell(cell, {})


@needs_minilm
@pytest.mark.full
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_executed(file, tmp_path):
    notebook = execute(file, tmp_path, SMALL[file.stem])
    assert pictures(notebook) == PICTURES[file.stem]
    assert not any(output.output_type == "error" for output in outputs(notebook))
