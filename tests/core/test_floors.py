"""Imports run downwards only: no file imports a higher floor or another room of its own floor."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "hf_mpq"
FLOORS = (
    {"core"},
    {"tasks"},
    {"format"},
    {"weights"},
    {"cost"},
    {"methods"},
    {"runs"},
    {"nn"},
    {"search"},
    {"rounding", "outliers"},
    {"runtime"},
    {"plugin"},
    {"exporters"},
    {"compression"},
    {"report"},
    {"hub"},
    {"training"},
    {"sweep"},
    {"cli"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
EXEMPT = {"__init__.py", "_compat.py", "_extras.py", "_lazy.py", "_moved.py", "_registration.py"}
TRAINER = ("transformers.trainer.Trainer", "transformers.Trainer")
OLD = "integrations"
"""Old import paths, which answer for one release."""
FILES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if str(path.relative_to(ROOT)) not in EXEMPT and path.relative_to(ROOT).parts[0] != OLD
)


def imported(source, parts):
    """Full dotted names of everything that a file imports; `parts` is its path inside the package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        if isinstance(node, ast.ImportFrom):
            here = ["hf_mpq", *parts[:-1]]
            base = here[: len(here) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{name.name}" for name in node.names)


def is_in(name, module):
    return name == module or name.startswith(module + ".")


def wrong_room(name, room):
    target = name.split(".")[1] if "." in name else ""
    if target in FLOOR_OF:
        return target != room and FLOOR_OF[target] >= FLOOR_OF[room]
    return target not in ("_compat", "_extras", "_lazy", "_moved") and room != "cli"


def broken_rules(source, parts):
    """What is wrong with the imports of a file, in words."""
    room = parts[0]
    for name in imported(source, parts):
        if is_in(name, "hf_mpq") and wrong_room(name, room):
            yield f"{room}/ must not import {name}"
        if is_in(name, "transformers.quantizers") and room != "plugin":
            yield f"only plugin/ may import {name}"
        if name in TRAINER and room != "training":
            yield f"only training/ may import {name}"
        if (
            FLOOR_OF[room] <= FLOOR_OF["nn"]
            and room != "tasks"
            and (is_in(name, "datasets") or is_in(name, "evaluate"))
        ):
            yield f"rooms up to nn/ must not import {name}"


def test_imports_run_downwards():
    broken = {}
    for path in FILES:
        parts = path.relative_to(ROOT).parts
        assert parts[0] in FLOOR_OF, f"{parts[0]} has no floor; give it one"
        broken["/".join(parts)] = list(broken_rules(path.read_text(), parts))
    assert {name: rules for name, rules in broken.items() if rules} == {} and len(broken) > 400


@pytest.mark.parametrize(
    "source, place",
    [
        ("from ..nn import MPQLinear", "weights/gates.py"),
        ("from ...nn import MPQLinear", "weights/gates/base.py"),
        ("from .. import nn", "weights/gates.py"),
        ("import hf_mpq.cost.size", "format/planes.py"),
        ("def late():\n    from hf_mpq.training import MPQTrainer", "search/base.py"),
        ("from hf_mpq import MPQConfig", "training/stages.py"),
        ("from transformers import Trainer", "tasks/glue.py"),
        ("from transformers.quantizers.base import HfQuantizer", "nn/convert.py"),
        ("import datasets", "nn/convert.py"),
        ("from evaluate import load", "cost/size.py"),
    ],
)
def test_the_checker_finds_wrong_imports(source, place):
    assert len(list(broken_rules(source, Path(place).parts))) == 1


@pytest.mark.parametrize(
    "source, place",
    [
        ("from ..core import Usage", "weights/gates.py"),
        ("from ...core import Usage\nfrom ..choice import Choice", "weights/gates/base.py"),
        ("from .base import GATES", "weights/gates/fixed.py"),
        ("from hf_mpq import _compat", "nn/convert.py"),
        ("from transformers import Trainer", "training/trainer.py"),
        ("import datasets", "tasks/glue.py"),
    ],
)
def test_the_checker_allows_right_imports(source, place):
    assert list(broken_rules(source, Path(place).parts)) == []
