"""`hf-mpq push`: a packed folder to the Hub."""

from typing import Annotated

import typer

from . import options
from .console import print_json
from .models import load_packed


def push(
    folder: options.Folder,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Its name on the Hub, such as me/small-bert.")],
    private: Annotated[bool, typer.Option("--private", help="Only for those who may see it.")] = False,
    token: Annotated[str | None, typer.Option(envvar="HF_TOKEN", help="Default: that of `hf auth login`.")] = None,
    json: options.Json = False,
) -> None:
    """Upload a packed folder with a model card; a damaged one is refused.

    [bold]Examples[/bold]

      hf-mpq push packed me/small-bert --private

    [bold]Exit codes[/bold]: 0 done; 2 wrong arguments or files, no network, or no right to write there.
    """
    from hf_mpq.integrations import hub

    load_packed(folder)
    url = hub.push(folder, repo, private=private, token=token)
    if json:
        print_json({"url": url})
    else:
        typer.echo(url)
