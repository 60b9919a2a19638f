"""Which columns of a user's rows are text, words or labels."""

from typing import TYPE_CHECKING, Protocol

from ..errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "context"),
    ("query", "passage"),
)
SINGLES = ("text", "sentence", "content", "review", "document", "query")
WORDS = ("tokens", "words")
LABELS = ("label", "labels")
TAGS = ("ner_tags", "tags", "labels", "label", "pos_tags")
STRINGS = ("string", "large_string")


class Columns(Protocol):
    """What the options say."""

    name: str
    text_columns: tuple[str, ...]
    label_column: str | None


def label_column(source: Columns, data: "Dataset", tagger: bool) -> str | None:
    """The column that was named; else one that is called so; a tagger's is a list for each row.

    Raises:
        UserError: there is no such column.
    """
    if source.label_column is not None and source.label_column not in data.column_names:
        raise UserError(
            f"there is no column {source.label_column!r} in {source.name}, which has {data.column_names}: "
            f"give another --label-column"
        )
    if source.label_column is not None:
        return source.label_column
    present = [name for name in (TAGS if tagger else LABELS) if name in data.column_names]
    return next((name for name in present if not tagger or is_list(data, name)), None)


def text_columns(source: Columns, data: "Dataset", label: str | None, tagger: bool) -> tuple[str, ...]:
    """The columns that were named; else those that are called so; else the only column of text. A tagger's are words.

    Raises:
        UserError: a column is not there, or it is not clear which one is meant.
    """
    unknown = sorted(set(source.text_columns) - set(data.column_names))
    if unknown:
        raise UserError(
            f"there is no column {unknown[0]!r} in {source.name}, which has {data.column_names}: give "
            f"another --text-column"
        )
    if len(set(source.text_columns)) < len(source.text_columns):
        raise UserError(f"--text-column names {source.text_columns[0]!r} twice: a pair has two columns")
    if source.text_columns:
        return source.text_columns
    others = [name for name in data.column_names if name != label]
    texts = [name for name in others if getattr(data.features[name], "dtype", None) in STRINGS]
    words = [name for name in others if is_words(data, name)]
    of_texts, of_words = (_pair(texts), _named(texts, SINGLES)), (_named(words, WORDS),)
    found = [*of_words, *of_texts] if tagger else [*of_texts, *of_words]
    found += [_only(words), _only(texts)] if tagger else [_only(texts), _only(words)]
    chosen = next((columns for columns in found if columns), None)
    if chosen is None:
        raise UserError(
            f"which column of {source.name} is the text? It has {data.column_names}: say --text-column NAME"
        )
    return chosen


def is_list(data: "Dataset", name: str) -> bool:
    """Whether a column has a list in each row."""
    from datasets import List

    return isinstance(data.features[name], List)


def is_words(data: "Dataset", name: str) -> bool:
    """Whether a column has a list of words in each row."""
    return is_list(data, name) and getattr(data.features[name].feature, "dtype", None) in STRINGS


def _pair(texts: list[str]) -> tuple[str, ...]:
    return next((pair for pair in PAIRS if set(pair) <= set(texts)), ())


def _named(columns: list[str], names: tuple[str, ...]) -> tuple[str, ...]:
    return next(((name,) for name in names if name in columns), ())


def _only(columns: list[str]) -> tuple[str, ...]:
    return tuple(columns) if len(columns) == 1 else ()
