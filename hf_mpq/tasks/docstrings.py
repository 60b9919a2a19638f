"""The embedded demo task: from a docstring of Python's standard library, tell the chapter of the library reference.

It needs no file and no network: the texts come from the running interpreter, so they are the same on every run of one
Python version, and nearly the same on the next.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from . import docstring_walker
from .docstring_chapters import CHAPTER_OF_MODULE, CHAPTERS
from .sequence_classification import SequenceClassification

MINIMUM_WORDS = 5
VALIDATION_SHARE = 5  # one in so many
SIGNATURE = re.compile(r"\s*[\w.]+\([^\n]*\)(\s*->[^\n]*?)?\s*(--|:|\n|$)\s*")


class Docstring(NamedTuple):
    """A text, its chapter, and what it documents, such as ``email.message.Message.get``."""

    text: str
    label: str
    source: str


@dataclass(frozen=True)
class DocstringTask(SequenceClassification):
    """Classify a docstring; the columns are `text`, `label` and `source`, what the text documents."""

    def load(self, data_dir: str | Path | None = None) -> DatasetDict:
        """The splits "train" and "validation", made on the spot by an interpreter of its own; `data_dir` is not used.

        Equal texts are kept once, or not at all if their chapters differ. All that bears one name is in one split, in
        whatever class or module, so that twins (``str.zfill`` and ``bytes.zfill``) do not straddle the split.

        Raises:
            RuntimeError: the interpreter that collects the texts failed.
        """
        splits = {"train": [], "validation": []}
        for example in unique(collect()):
            splits["validation" if in_validation(example.source) else "train"].append(example)
        label = ClassLabel(names=list(self.label_names))
        features = Features({"text": Value("string"), "label": label, "source": Value("string")})
        return DatasetDict(
            {
                name: Dataset.from_list([example._asdict() for example in examples], features=features)
                for name, examples in splits.items()
            }
        )


def collect() -> list[tuple[str, str, str]]:
    """``(module, qualified name, docstring)`` of the modules in `CHAPTERS`, read in another process.

    Raises:
        RuntimeError: that process failed.
    """
    modules = [module for module in CHAPTER_OF_MODULE if module in sys.stdlib_module_names]
    command = [sys.executable, "-I", "-X", "utf8", docstring_walker.__file__, *modules]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=120)
    if result.returncode:
        raise RuntimeError(f"Could not read the docstrings of the standard library: {result.stderr.strip()[-500:]}")
    return [tuple(row) for row in json.loads(result.stdout)]


def unique(rows: Iterable[tuple[str, str, str]]) -> list[Docstring]:
    """The usable texts, each once; texts that stand in two chapters, or that name their own, are left out."""
    found = defaultdict(list)
    for module, name, docstring in rows:
        text, label = clean(docstring), CHAPTER_OF_MODULE[module.partition(".")[0]]
        if len(text.split()) >= MINIMUM_WORDS and label.casefold() not in text.casefold():
            source = f"{module}.{name}".rstrip(".")
            found[letters(text)].append(Docstring(text, label, source))
    return [twins[0] for twins in found.values() if len({example.label for example in twins}) == 1]


def clean(docstring: str) -> str:
    """The text on one line, without the signatures that it begins with."""
    while match := SIGNATURE.match(docstring):
        docstring = docstring[match.end() :]
    return " ".join(docstring.split())


def letters(text: str) -> str:
    """What two texts have in common that differ in case, digits and punctuation only."""
    return " ".join(re.findall("[a-z]+", text.lower()))


def in_validation(source: str) -> bool:
    """Whether a text is for validation: a stable hash of the last part of its qualified name."""
    name = source.rpartition(".")[2].strip("_").casefold()
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % VALIDATION_SHARE == 0


DOCSTRINGS = DocstringTask(
    name="docstrings",
    text_columns=("text",),
    label_column="label",
    label_names=tuple(CHAPTERS),
    headline="accuracy",
    scores=("accuracy", "macro_f1"),
)
