"""`hf-mpq extract`: fewer bit planes of a nested model, as a folder of its own."""

from pathlib import Path
from typing import Annotated

import typer

from .. import options
from ..console import print_json, say
from ..embedder import encoder_of
from ..errors import UserError
from ..folders import new_folder
from ..typed import check_models, checked_precisions


def extract(
    folder: options.Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for what is kept.")],
    bits: Annotated[
        str,
        typer.Option(
            help="A precision (4), precisions by pattern (layer=4,query=8: later ones win), or a "
            "budget (3bits, 4MB, 0.1x)."
        ),
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what hf-mpq wrote into OUT; other files stay.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Write, of a packed folder with nested codes, only the bit planes that a lower precision needs.

    The new folder is loaded like any other, serves the precisions up to --bits, and can be extracted further down, not
    up again. No model is loaded for it.

    [bold]Examples[/bold]

      hf-mpq extract nested --bits 4 nested-4bit
      hf-mpq extract nested --bits "layer=4,query=8,key=8" nested-mixed
      hf-mpq extract nested --bits 3bits nested-3bit --json

    [bold]Exit codes[/bold]: 0 done; 2 wrong arguments or files, a precision that is not stored, or a damaged model.
    Unless it is 0, OUT is as it was.
    """
    check_models(folder)
    precisions = checked_precisions(bits)
    import hf_mpq

    try:
        with new_folder(out, overwrite, (folder,)) as partial:
            hf_mpq.extract(folder, precisions, partial)
    except UserError as error:
        raise UserError(str(error).replace("--out", "OUT")) from error
    before, after = (_weights(place) for place in (folder, out))
    if json:
        print_json({"folder": str(out), "bytes": after, "whole_bytes": before})
        return
    say(f"wrote {out}: {after / 1e6:.2f} MB of {before / 1e6:.2f} MB")


def _weights(folder: Path) -> int:
    """Bytes of the files of the weights."""
    return sum(file.stat().st_size for file in Path(encoder_of(folder)).glob("*.safetensors"))
