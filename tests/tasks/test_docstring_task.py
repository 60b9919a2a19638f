import sys
import threading
from collections import Counter

import pytest
from datasets import ClassLabel

from hf_mpq.tasks import docstrings as room
from hf_mpq.tasks import get_task
from hf_mpq.tasks.docstring_chapters import CHAPTER_OF_MODULE, CHAPTERS


@pytest.fixture
def examples(docstrings):
    return [*docstrings["train"], *docstrings["validation"]]


def test_it_is_a_sane_task(docstrings, examples):
    counts = Counter(example["label"] for example in examples)
    assert 4000 <= len(examples) <= 9000
    assert set(counts) == set(range(12)) and min(counts.values()) > 150
    assert 0.12 < len(docstrings["validation"]) / len(examples) < 0.28
    assert docstrings["train"].features["label"] == ClassLabel(names=list(CHAPTERS))


def test_every_chapter_is_in_validation(docstrings):
    counts = Counter(docstrings["validation"]["label"])
    assert set(counts) == set(range(12)) and min(counts.values()) > 30


def test_it_is_the_same_in_every_run(docstrings):
    again = get_task("docstrings").load()
    assert all(again[split].to_list() == docstrings[split].to_list() for split in docstrings)


def test_no_text_is_there_twice_or_in_both_splits(examples):
    assert max(Counter(room.letters(example["text"]) for example in examples).values()) == 1


def test_one_name_is_in_one_split(docstrings):
    names = {
        split: {source.rpartition(".")[2].strip("_").casefold() for source in docstrings[split]["source"]}
        for split in docstrings
    }
    assert not names["train"] & names["validation"]


def test_texts_are_clean_and_do_not_name_their_label(examples):
    for example in examples:
        assert len(example["text"].split()) >= room.MINIMUM_WORDS
        assert "\n" not in example["text"]
        assert get_task("docstrings").label_names[example["label"]].casefold() not in example["text"].casefold()


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        ("f(x, /)\n--\n\nReturn x.", "Return x."),
        ("getpid() -> integer\n\nThe id.", "The id."),
        ("loads(s[, n]) -> object -- The object.", "The object."),
        ("f(x)\nf(x, y)\n\n  Two\n  lines.", "Two lines."),
        ("Call f(x) first.", "Call f(x) first."),
        ("Point(x, y)", ""),
    ],
)
def test_signatures_are_stripped(docstring, text):
    assert room.clean(docstring) == text


def test_a_text_of_two_chapters_is_left_out_and_a_twin_kept_once():
    rows = [
        ("json", "a", "The very same text here, 1."),
        ("email", "b", "The very same text here, 2."),
        ("math", "c", "Another text with five words."),
        ("socket", "d", "Another text with five words."),
        ("re", "e", "Too short."),
        ("queue", "", "About concurrent execution and nothing else."),
    ]
    assert [example.source for example in room.unique(rows)] == ["json.a"]


def test_every_chapter_names_modules_once():
    assert len(CHAPTER_OF_MODULE) == sum(len(modules.split()) for modules in CHAPTERS.values())
    assert len(set(CHAPTER_OF_MODULE) & sys.stdlib_module_names) > 0.9 * len(CHAPTER_OF_MODULE)


def test_collecting_imports_nothing_here():
    before, threads = set(sys.modules), threading.active_count()
    rows = room.collect()
    assert set(sys.modules) == before and threading.active_count() == threads
    assert {"antigravity", "this"}.isdisjoint(module for module, _, _ in rows)


def test_a_failed_interpreter_is_reported(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no docstrings today')")
    monkeypatch.setattr(room.docstring_walker, "__file__", str(broken))
    with pytest.raises(RuntimeError, match="no docstrings today"):
        room.collect()
