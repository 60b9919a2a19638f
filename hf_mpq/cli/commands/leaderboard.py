"""`hf-mpq leaderboard`: measured rows in a browser, or as a table."""

from pathlib import Path
from typing import Annotated

import typer

from ..._extras import require
from ..console import say
from ..errors import UserError


def leaderboard(
    rows: Annotated[
        Path | None,
        typer.Argument(help="Folder of JSON lines, or of such folders; default: the rows that come with hf_mpq."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="With --table: only these; may be given several times.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="With --table: only these.")] = None,
    budget: Annotated[list[str] | None, typer.Option(help="With --table: only these.")] = None,
    table: Annotated[bool, typer.Option("--table", help="Print Markdown, and open nothing.")] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860 on.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Whether to open one.")] = True,
) -> None:
    """Show what was measured of every method, to be filtered and drawn in a browser.

    The server is for this machine alone, until Ctrl-C. It needs the extra `app`; `--table` does not.

    [bold]Examples[/bold]

      hf-mpq leaderboard
      hf-mpq leaderboard --table --task mrpc --budget 2bits

    [bold]Exit codes[/bold]: 0 done; 2 wrong arguments or files, or the extra is missing.
    """
    chosen = {"task": task, "method": method, "budget": budget}
    if any(chosen.values()) and not table:
        raise UserError("--task, --method and --budget go with --table; in the browser they are chosen there")
    if rows is not None and not rows.is_dir():
        raise UserError(f"there is no folder {rows}: give one with results.jsonl in it, or in its folders")
    if not table:
        require("app", "hf-mpq leaderboard without --table")
    from ...report.board.sources import ROWS, read_sources

    sources = read_sources(ROWS if rows is None else rows)
    if table:
        from ...report.board.view import Board

        found = Board(sources).table(**chosen)
        if not found.body:
            of = [f"{name} {' or '.join(values)}" for name, values in chosen.items() if values]
            raise UserError(f"there are no rows{' of ' if of else ''}{', '.join(of)} in {rows or ROWS}")
        typer.echo(found.markdown())
        return
    from ...report.board.app import launch, make_app

    app = make_app(sources)
    say(f"the leaderboard is at {launch(app, port, browser)} until Ctrl-C")
    app.block_thread()
