"""Text of others, made harmless for a terminal."""

import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def plain(text: object) -> str:
    """The text with characters that move the cursor, hide or reorder others written as `\\x1b`; line breaks stay."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], str(text))
