"""The pages of results say what the committed rows say, whatever rows there are."""

import importlib.util
import re
from dataclasses import replace

import pytest

from hf_mpq.report.board.sources import Source, read_sources
from tests.docs.pages import DOCS


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("result_pages", DOCS / "result_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sources(generator):
    return read_sources(generator.ROWS)


def test_pages_and_charts_are_what_the_rows_say(generator, sources):
    pages = generator.pages(sources)
    for name, text in pages.items():
        page = generator.PAGES / name
        assert page.is_file() and page.read_text() == text, (
            f"run `python docs/result_pages.py && python docs/method_pages.py`: {name} is not as it was"
        )
    assert {page.name for page in generator.PAGES.glob("*.md")} == set(pages)
    assert generator.charts_are_current(sources), "run `python docs/result_pages.py`"
    assert set(re.findall(r'(?:src|srcset)="([^"]+)"', pages["README.md"])) == set(generator.CHARTS)


def test_every_row_is_on_a_page(generator, sources):
    pages = generator.pages(sources)
    for source in sources:
        if source.compares_methods:
            assert f"### {source.name}\n" in pages["README.md"]
        else:
            assert f"## {source.about['question']}\n" in pages[f"{source.about['page']}.md"], source.name


def test_tables_are_whole(generator, sources):
    for name, text in generator.pages(sources).items():
        for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
            counts = {re.sub(r"\\\|", "", line).count("|") for line in block.splitlines()}
            assert len(counts) == 1, f"{name}: {block.splitlines()[0]}"


def test_there_need_not_be_any_rows(generator, sources):
    empty = generator.pages([])
    assert "##" not in empty["README.md"] and "<picture" not in empty["README.md"]
    lone = generator.pages([Source("one", ({"task": "mrpc", "method": "mpq", "budget": "2bits", "score": 1.0},))])
    assert "| 2bits | `mpq` | 1.00 | 1 | one |" in lone["README.md"] and "<picture" not in lone["README.md"]
    begun = [replace(source, rows=source.rows[:1]) for source in sources if source.compares_methods]
    assert set(generator.pages(begun)) == set(empty)
