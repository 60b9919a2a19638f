"""Text of others, made harmless in a model card."""

import re

from ...core.plain_text import plain

_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$])")


def words(text: object) -> str:
    """The text as it reads, on one line, also in a table."""
    return _MARKUP.sub(r"\\\1", " ".join(plain(text).split()))


def code(text: object) -> str:
    """The text as code in a line."""
    line = " ".join(plain(text).split())
    fence = "`" * (_longest_run(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{_without_marks(line)}{space}{fence}"


def block(text: object) -> str:
    """The text as a block of code, which nothing in it can end."""
    fence = "`" * max(3, _longest_run(str(text)) + 1)
    return f"{fence}\n{_without_marks(plain(text))}\n{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _without_marks(text: str) -> str:
    """A card's own marks are comments, also where they stand in code."""
    return text.replace("<!--", "< !--")
