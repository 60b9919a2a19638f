"""`hf-mpq train`: a recipe under `accelerate launch`."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from .errors import UserError

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A script: a path, or the name of one in recipes/.")],
    processes: Annotated[int | None, typer.Option(min=1, help="How many processes; default: accelerate's.")] = None,
) -> None:
    """Run a recipe with `accelerate launch`; all other arguments are the recipe's.

    [bold]Examples[/bold]

      hf-mpq train run_glue recipes/methods/mpq.yaml recipes/tasks/sst2.yaml --model_name_or_path my-fine-tuned-bert --output_dir out/sst2
      hf-mpq train my_recipe.py --processes 2 -- --seed 1

    [bold]Exit codes[/bold]: those of the recipe; 2 where there is no such recipe; 130 interrupted.
    What `accelerate config` was told holds here too.
    """  # noqa: E501
    script = find_recipe(recipe)
    launch = [] if processes is None else ["--num_processes", str(processes)]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch, str(script), *context.args]
    process = subprocess.Popen(command)
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the recipe was told too, and ends in its own way
        process.wait()
        raise
    raise typer.Exit(code if code >= 0 else 128 - code)


def find_recipe(name: str) -> Path:
    """The script of a path, or of a name in the repository's `recipes/`, with or without `.py`.

    Raises:
        UserError: there is none.
    """
    for path in (Path(name), RECIPES / name, RECIPES / f"{name}.py"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in RECIPES.glob("run_*.py"))
    hint = f"those of the repository are {', '.join(known)}" if known else (
        "recipes are not installed with the package: clone the repository and give a path")  # fmt: skip
    raise UserError(f"there is no recipe {name!r}; {hint}")
