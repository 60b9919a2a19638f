"""`hf-mpq recipes`: the scripts and settings that come with the package."""

import ast
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError, guarded
from ..recipes import RECIPES, shipped

recipes = typer.Typer(
    help="List or copy the recipes: thin scripts for `accelerate launch`, and YAML files for them.",
    no_args_is_help=True,
)


@recipes.command("ls")
@guarded
def ls() -> None:
    """List every recipe with what it does."""
    for path in shipped():
        typer.echo(f"{path}\t{_words(RECIPES / path)}" if path.suffix == ".py" else str(path))


@recipes.command("cp")
@guarded
def cp(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As `hf-mpq recipes ls` has them, or `all`.")],
    to: Annotated[Path, typer.Option(help="Folder that they are copied into.")] = Path("recipes"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Copy recipes to change them; a script brings the modules beside it that it imports.

    [bold]Examples[/bold]

      hf-mpq recipes cp run_glue.py methods/mpq.yaml tasks/sst2.yaml --to my-recipes
      hf-mpq recipes cp all
    """
    known = {str(path): path for path in shipped()}
    unknown = [name for name in names if name != "all" and name not in known]
    if unknown:
        raise UserError(f"there is no recipe {unknown[0]!r}; `hf-mpq recipes ls` lists them")
    chosen = set(known) if "all" in names else {other for name in names for other in _with_imports(name, known)}
    there = sorted(name for name in chosen if (to / name).exists())
    if there and not overwrite:
        raise UserError(f"{to / there[0]} is there already: name another folder with --to, or give --overwrite")
    for name in sorted(chosen):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes((RECIPES / name).read_bytes())
        typer.echo(str(to / name))


def _words(script: Path) -> str:
    """First line of a script's docstring."""
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").split("\n")[0]


def _with_imports(name: str, known: dict[str, Path]) -> set[str]:
    """A recipe, and the modules beside it that it imports, those of these too."""
    found, ahead = set(), [name]
    while ahead:
        one = ahead.pop()
        if one in found:
            continue
        found.add(one)
        if one.endswith(".py"):
            tree = ast.parse((RECIPES / one).read_text(encoding="utf-8"))
            modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
            ahead += [f"{module}.py" for module in modules if f"{module}.py" in known]
    return found
