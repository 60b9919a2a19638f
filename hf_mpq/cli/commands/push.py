"""`hf-mpq push`: a packed folder to the Hub."""

from json import loads
from pathlib import Path
from typing import Annotated

import typer

from .. import options
from ..console import print_json
from ..errors import UserError
from ..models import load_packed
from ..typed import check_models


def push(
    folder: options.Folder,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Its name on the Hub, such as me/small-bert.")],
    private: Annotated[bool, typer.Option("--private", help="Only for those who may see it.")] = False,
    token: Annotated[str | None, typer.Option(envvar="HF_TOKEN", help="Default: that of `hf auth login`.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch; made if it is not there.")] = None,
    verified: Annotated[Path | None, typer.Option(help="What `hf-mpq verify --json` printed, for the card.")] = None,
    base_model: Annotated[str | None, typer.Option(help="Name of the float model on the Hub, for the card.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name on the Hub of the data of the scores.")] = None,
    license: Annotated[str | None, typer.Option(help="Such as apache-2.0.")] = None,
    trust_remote_code: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Upload a packed folder with a model card; a damaged one is refused.

    [bold]Examples[/bold]

      hf-mpq push packed me/small-bert --private
      hf-mpq push packed me/small-bert --verified verified.json --base-model bert-base-uncased --license apache-2.0

    [bold]Exit codes[/bold]: 0 done; 2 wrong arguments or files, no network, or no right to write there.
    """
    facts = {"base_model": base_model, "dataset": dataset, "license": license, **_scores(verified)}
    check_models(folder)
    from ... import hub

    load_packed(folder, trust_remote_code)
    url = hub.push(folder, repo, private=private, token=token, revision=revision, **facts)
    if json:
        print_json({"url": str(url)})
    else:
        typer.echo(str(url))


def _scores(file: Path | None) -> dict[str, dict[str, float]]:
    """The metrics of both models in what `verify` printed."""
    if file is None:
        return {}
    if not file.is_file():
        raise UserError(f"there is no file {file}: write it with `hf-mpq verify ... --json > {file}`")
    try:
        found = loads(file.read_text())
        scores = {name: dict(found[name]) for name in ("metrics", "float_metrics")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not what `hf-mpq verify --json` prints: write it with `hf-mpq verify ... --json > {file}`"
        ) from error
    if any(value is None for of_model in scores.values() for value in of_model.values()):
        raise UserError(f"{file} has scores that are no numbers: push a model that `hf-mpq verify` passes")
    return scores
