"""The page of every method says what the registry says."""

import importlib.util
from pathlib import Path

import pytest

from hf_mpq.core import METHODS
from hf_mpq.report.board.sources import Source

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("method_pages", DOCS / "method_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_what_the_registry_says(generator):
    for name, text in generator.pages().items():
        page = generator.PAGES / name
        assert page.is_file() and page.read_text() == text, (
            f"run `python docs/method_pages.py`: {name} is not as it was"
        )


def test_there_is_no_page_without_a_method():
    assert {page.stem for page in (DOCS / "methods").glob("*.md")} == {"README", *METHODS}


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_says_what_it_does_in_about_three_sentences(name):
    assert 1 <= METHODS[name].summary.count(".") <= 6 and METHODS[name].summary.endswith(".")


def test_rows_stand_on_the_page_of_their_method(generator):
    row = {"task": "mrpc", "budget": "2bits", "variant": "", "unseen_kl": 0.5, "megabytes": 1.0}
    trained = Source("one", tuple({**row, "method": name, "score": s} for name in ("mpq", "q8") for s in (80.0, 90.0)))
    about = {"line": {"method": "method"}, "columns": {"score": "{score:.1f}"}, "question": "How?", "page": "training"}
    other = Source("two", ({"method": "q8", "score": 70.0}, {"method": "ghost", "score": 60.0}), about)
    text = generator._measured("q8", [trained, other])
    assert "| 2bits | `q8` | 85.00 ± 5.00 | 0.5000 | 1.00 | 2 | one |" in text and "mpq" not in text
    assert "[How?](../results/training.md)" in text and "| q8 | 70.0 |" in text and "ghost" not in text
    assert generator._measured("uniform", [trained, other]).startswith("Not yet.")
