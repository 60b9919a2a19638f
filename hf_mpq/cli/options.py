"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what hf-mpq wrote into --out; other files stay.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a packed model.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder with one folder per task; default: the Hub.")]
TaskName = Annotated[str | None, typer.Option("--task", help="Task whose columns and metric --data has, such as sst2.")]
TextColumns = Annotated[
    list[str] | None, typer.Option("--text-column", help="Column of the text; give two for pairs of texts.")
]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the label; default: label or labels.")]
DataConfig = Annotated[
    str | None, typer.Option(help="Configuration of a data set, such as sst2 of nyu-mll/glue, where it has several.")
]
MaxLength = Annotated[int, typer.Option(min=2, help="Tokens after which inputs are cut.")]
EvalRows = Annotated[int | None, typer.Option(min=1, help="Score only so many rows of the evaluation split.")]
Precisions = Annotated[
    str | None,
    typer.Option(
        "--bits",
        help="Of a nested model, read only what this needs: a precision (4), precisions by pattern "
        "(layer=4,query=8: later ones win), or a budget (3bits, 4MB, 0.1x).",
    ),
]
DATA = (
    "A task (sst2, squad, conll2003, ...), a file (parquet, csv, tsv, json, jsonl, txt), a folder of such files or "
    "of datasets' save_to_disk, or a data set on the Hub (owner/name)."
)
Data = Annotated[str | None, typer.Option("--data", help=DATA)]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that lies beside the model: read it before.")
]
