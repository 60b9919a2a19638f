"""`hf-mpq doctor`: what this machine can do; or what is wrong with a folder, if anything."""

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
from ..machine import this_machine
from ..machine_checkup import machine_findings

COLOURS = {"ok": "green", NOTE: "yellow", BROKEN: "red"}


def doctor(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder that should hold a packed model; none: the machine.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not try what happens without `import hf_mpq`.")] = False,
    trust_remote_code: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Examine this machine: what runs on it, and what would make it faster? Or a packed folder: is it whole, does it
    match its config, what made it, can others load it?

    [bold]Examples[/bold]

      hf-mpq doctor
      hf-mpq doctor packed
      hf-mpq doctor packed --quick --json

    [bold]Exit codes[/bold]: 0 sound (there may be notes); 1 broken; 2 there is no such folder.
    """
    if folder is None:
        findings, name, told = list(machine_findings(this_machine())), "this machine", {}
    elif folder.is_dir():
        findings, name, told = list(examine(folder, quick, trust_remote_code)), str(folder), {"folder": str(folder)}
    else:
        raise UserError(f"there is no folder {folder}: give the folder that save_pretrained wrote")
    from ...core.plain_text import plain

    broken = any(finding.state == BROKEN for finding in findings)
    if json:
        print_json({**told, "sound": not broken, "findings": [vars(one) for one in findings]})
    else:
        screen().print(_table(findings))
        verdict = ("broken", "red") if broken else ("sound", "green")
        screen().print(Text.assemble(plain(name), " is ", verdict))
    if broken:
        raise typer.Exit(NO)


def _table(findings: list[Finding]) -> Table:
    from ...core.plain_text import plain

    table = Table("", "", "")
    for one in findings:
        table.add_row(one.check, Text(one.state, COLOURS[one.state]), Text(plain(one.detail)))
    return table
