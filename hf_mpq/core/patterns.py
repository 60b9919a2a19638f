"""Regular expressions of others, which end."""

import regex

SECONDS = 1.0


def search(pattern: str, text: str, whole: bool = False) -> regex.Match | None:
    """`re.search`, or `re.fullmatch`, of a pattern that may come with a file.

    Raises:
        ValueError: it is none or no text, or still tries other ways after a second.
    """
    if not isinstance(pattern, str):
        raise ValueError(f"a pattern is text, such as 'query'; got {pattern!r}")
    try:
        compiled = regex.compile(pattern)
        return (compiled.fullmatch if whole else compiled.search)(text, timeout=SECONDS)
    except TimeoutError:
        raise ValueError(
            f"the pattern {pattern!r} does not end on {text!r}: write it without repetitions inside repetitions"
        ) from None
    except regex.error as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error})") from error
