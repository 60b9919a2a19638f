"""The command `hf-mpq`."""

from importlib.metadata import version
from typing import Annotated

import typer

from .commands.bench import bench
from .commands.compress import compress
from .commands.demo import demo
from .commands.doctor import doctor
from .commands.export import export
from .commands.extract import extract
from .commands.inspect import inspect
from .commands.leaderboard import leaderboard
from .commands.push import push
from .commands.recipes import recipes
from .commands.sweep import sweep
from .commands.train import PASS_ON, train
from .commands.verify import verify
from .errors import guarded

app = typer.Typer(
    name="hf-mpq",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Mixed-precision quantization of BERT-family encoders: small folders that from_pretrained loads.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(recipes, name="recipes")
for command in (compress, inspect, verify, bench, export, extract, push, sweep, doctor, leaderboard, demo):
    app.command(command.__name__)(guarded(command))
app.command("train", context_settings=PASS_ON)(guarded(train))


def print_version(wanted: bool) -> None:
    """The version, and nothing else."""
    if wanted:
        typer.echo(version("hf_mpq"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Mixed-precision quantization of BERT-family encoders: small folders that from_pretrained loads."""


if __name__ == "__main__":
    app()
