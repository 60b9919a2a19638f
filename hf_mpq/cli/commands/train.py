"""`hf-mpq train`: a recipe under `accelerate launch`."""

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError, leave
from ..recipes import RECIPES

BY_ITSELF, GRACE = 2.0, 10.0
"""Seconds that an interrupted recipe has to end by itself, and once it was told to."""
STOPPED = "interrupted; the repository's recipes go on when the same command is given again"
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A script: a path, or the name of one in recipes/.")],
    processes: Annotated[int | None, typer.Option(min=1, help="How many processes; default: accelerate's.")] = None,
) -> None:
    """Run a recipe with `accelerate launch`; all other arguments are the recipe's.

    [bold]Examples[/bold]

      hf-mpq train run_glue recipes/methods/mpq.yaml recipes/tasks/sst2.yaml --model_name_or_path my-fine-tuned-bert --output_dir out/sst2
      hf-mpq train my_recipe.py --processes 1 -- --seed 1

    [bold]Exit codes[/bold]: those of the recipe; 2 where there is no such recipe; 130 interrupted.
    What `accelerate config` was told holds here too.
    """  # noqa: E501
    script = find_recipe(recipe)
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    launch = [] if processes is None else ["--num_processes", str(processes)]
    arguments = launch_command_parser().parse_args([*launch, str(script), *context.args])
    try:
        launch_command(arguments)
    except subprocess.CalledProcessError as error:
        raise typer.Exit(exit_code(error.returncode)) from error
    except ChildFailedError as error:
        raise typer.Exit(exit_code(error.get_first_failure()[1].exitcode)) from error
    except SignalException as error:  # several processes, which it has ended
        leave(STOPPED, 128 + error.sigval, False)
    except KeyboardInterrupt as error:
        _end_children()
        raise KeyboardInterrupt(STOPPED) from error


def _end_children() -> None:
    """End what was started; Ctrl-C in a terminal reaches it too, a signal to this process alone does not."""
    from psutil import Process, wait_procs

    left = wait_procs(Process().children(recursive=True), timeout=BY_ITSELF)[1]
    for one in left:
        one.terminate()
    for one in wait_procs(left, timeout=GRACE)[1]:
        one.kill()


def exit_code(code: int) -> int:
    """As shells have it: 128 and the signal for a process that a signal ended."""
    return code if code >= 0 else 128 - code


def find_recipe(name: str) -> Path:
    """The script of a path, or of a name in the repository's `recipes/`, with or without `.py`.

    Raises:
        UserError: there is none.
    """
    for path in (Path(name), RECIPES / name, RECIPES / f"{name}.py"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in RECIPES.glob("run_*.py"))
    hint = f"those that come with hf_mpq are {', '.join(known)}"
    raise UserError(f"there is no recipe {name!r}; {hint}")
