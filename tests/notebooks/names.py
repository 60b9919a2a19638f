"""What a notebook asks of hf_mpq, found without running it: names, keyword arguments, commands with their options."""

import ast
import inspect
import shlex
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from hf_mpq.cli.main import app


def check_cell(source: str, known: dict[str, Any]) -> int:
    """Look up all that one cell takes from hf_mpq, and return how many things that were.

    Args:
        source: of the cell.
        known: names that cells before it imported; gets those of this one.

    Raises:
        AttributeError, ImportError, TypeError: there is no such thing.
    """
    if source.startswith("%%bash"):
        return sum(map(_check_command, source.splitlines()[1:]))
    lines = [line for line in source.splitlines() if not line.startswith("%")]
    tree = ast.parse("\n".join(lines))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and "hf_mpq" in ast.unparse(node):
            exec(ast.unparse(node), known)
    return sum(_check_node(node, known) for node in ast.walk(tree))


def _check_node(node: ast.AST, known: dict[str, Any]) -> bool:
    if isinstance(node, ast.Call) and (names := list(_chain(node.func))) and names[0] in known:
        found = _look_up(names, known)
        inspect.signature(found).bind_partial(**{one.arg: None for one in node.keywords if one.arg})
        return True
    if isinstance(node, ast.Attribute) and (names := list(_chain(node))) and names[0] in known:
        _look_up(names, known)
        return True
    return False


def _chain(node: ast.AST) -> Iterator[str]:
    """The names of `a.b.c`; nothing where it is not such a chain."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute) and (before := list(_chain(node.value))):
        yield from [*before, node.attr]


def _look_up(names: list[str], known: dict[str, Any]) -> Any:
    found = known[names[0]]
    for name in names[1:]:
        found = getattr(found, name)
    return found


def _check_command(line: str) -> bool:
    program, *words = shlex.split(line) or [""]
    if program != "hf-mpq":
        return False
    command = get_command(app).commands[words[0]]
    options = {option for one in command.params for option in one.opts}
    unknown = [word for word in words if word.startswith("--") and word not in options]
    if unknown:
        raise TypeError(f"`hf-mpq {words[0]}` has no {unknown}")
    return True
