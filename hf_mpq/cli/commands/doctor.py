"""`hf-mpq doctor`: what is wrong with a folder, if anything."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from .. import options
from ..checkup import examine
from ..console import print_json, screen
from ..errors import NO, UserError
from ..findings import BROKEN, NOTE, Finding

COLOURS = {"ok": "green", NOTE: "yellow", BROKEN: "red"}


def doctor(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that should hold a packed model.")],
    quick: Annotated[bool, typer.Option("--quick", help="Do not try what happens without `import hf_mpq`.")] = False,
    trust_remote_code: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Examine a packed folder: is it whole, does it match its config, what made it, can others load it?

    [bold]Examples[/bold]

      hf-mpq doctor packed
      hf-mpq doctor packed --quick --json

    [bold]Exit codes[/bold]: 0 sound (there may be notes); 1 broken; 2 there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the folder that save_pretrained wrote")
    from ...core.plain_text import plain

    findings = list(examine(folder, quick, trust_remote_code))
    broken = any(finding.state == BROKEN for finding in findings)
    if json:
        print_json({"folder": str(folder), "sound": not broken, "findings": [vars(one) for one in findings]})
    else:
        screen().print(_table(findings))
        verdict = ("broken", "red") if broken else ("sound", "green")
        screen().print(Text.assemble(plain(folder), " is ", verdict))
    if broken:
        raise typer.Exit(NO)


def _table(findings: list[Finding]) -> Table:
    from ...core.plain_text import plain

    table = Table("", "", "")
    for one in findings:
        table.add_row(one.check, Text(one.state, COLOURS[one.state]), Text(plain(one.detail)))
    return table
