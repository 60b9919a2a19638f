"""A space as it is typed: a YAML file, and NAME=VALUES."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import UserError

EXAMPLE = "learning_rate=[5e-5,1e-4]"


def space_of(file: Path | None, typed: Sequence[str], named: Mapping[str, Any]) -> dict[str, Any]:
    """Names with values, as `hf_mpq.sweep.Plan` has them.

    Args:
        file: YAML with a line for each name; None without.
        typed: `NAME=VALUES`, which win over the file.
        named: from options of their own.

    Raises:
        UserError: the file is not there or no YAML of names, something typed is no `NAME=VALUES`, or a name is given
            twice.
    """
    found = {} if file is None else _read(file)
    names = [_pair(text)[0] for text in typed] + list(named)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is given twice: once with all its values is enough")
    return {**found, **dict(map(_pair, typed)), **named}


def _pair(text: str) -> tuple[str, Any]:
    name, sign, values = text.partition("=")
    if not sign or not name.strip() or not values.strip():
        raise UserError(f"--vary {text!r} is not understood: write NAME=VALUES, such as {EXAMPLE}")
    return name.strip(), _yaml(values, f"--vary {text!r}")


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"--space: there is no file {file}")
    content = _yaml(file.read_text(encoding="utf-8"), str(file))
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{file} has no lines such as `learning_rate: [0.00005, 0.0001]`")
    return content


def _yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return _numbers(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UserError(f"{where} is no YAML ({' '.join(str(error).split())}): write for example {EXAMPLE}") from error


def _numbers(value: Any) -> Any:
    """1e-4 as a number, which YAML takes for a word."""
    if isinstance(value, dict):
        return {name: _numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    if isinstance(value, str) and value[:1] in "0123456789.-" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value
