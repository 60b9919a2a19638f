"""`hf-mpq inspect`: what a quantized folder holds, as a map in the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options
from ..bitmap import layer_map, legend, matrix_table, outside_map
from ..console import print_json, say, screen
from ..errors import UserError
from ..models import load_quantized
from ..pruned import pruned_parts, pruned_table
from ..typed import check_models, checked_precisions

if TYPE_CHECKING:
    from torch import nn


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a quantized model.")],
    matrices: Annotated[bool, typer.Option("--matrices", help="A line for each matrix, too.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Write the map as a picture (.png, .svg, .pdf).")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures and tables.")] = None,
    run: Annotated[Path | None, typer.Option(help="The page tells of the training run in this folder, too.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="The page has speed and memory here, too.")] = False,
    dark: Annotated[bool, typer.Option("--dark", help="The picture for a dark page.")] = False,
    bits: options.Precisions = None,
    trust_remote_code: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Show the bits of every matrix as a map, sizes, and what is pruned.

    A character stands for some neighbouring output neurons and names the bits that most of them have; a dot is pruned.

    [bold]Examples[/bold]

      hf-mpq inspect packed
      hf-mpq inspect packed --picture bits.png --html report.html
      hf-mpq inspect packed --json

    [bold]Exit codes[/bold]: 0 done; 2 no quantized model there, or a damaged one.
    """
    if html is None and (run is not None or measure):
        raise UserError("--run and --measure are for the page: say where with --html FILE.html")
    check_models(folder)
    precisions = checked_precisions(bits)
    from ... import size_report

    model = load_quantized(folder, trust_remote_code, precisions)
    if picture is not None:
        from ...core.files import whole_file
        from ...report import bit_map

        with whole_file(picture) as partial:
            bit_map(model, dark=dark).savefig(partial)
        say(f"wrote {picture}")
    if html is not None:
        from ...report import write_html

        write_html(html, model if trust_remote_code or bits else folder, run, measure=measure)
        say(f"wrote {html}")
    if json:
        print_json(_content(model, folder))
        return
    console = screen()
    console.print(layer_map(model, console.width))
    console.print(outside_map(model, console.width))
    console.print(legend(model))
    if matrices:
        console.print(matrix_table(model))
    console.print(str(size_report(model)).rstrip())
    console.print(pruned_table(pruned_parts(model)))


def _content(model: "nn.Module", folder: Path) -> dict:
    """Everything, for programs."""
    import hf_mpq

    report, assignment = hf_mpq.size_report(model), hf_mpq.assignment_of(model)
    bits = {name: list(matrix.bits) for name, matrix in assignment.matrices.items()}
    size = {
        name: getattr(report, name)
        for name in (
            "total_bytes",
            "encoder_bytes",
            "embedding_bytes",
            "head_bytes",
            "average_bits",
            "used_bits",
            "ratio",
            "paper_mib",
        )
    }
    return {
        "folder": str(folder),
        "architecture": type(model).__name__,
        "storage": model.config.quantization_config.storage,
        "size": size,
        "bits": bits,
        "nested": _nested(model),
        "activation_bits": dict(assignment.activation_bits),
        "pruned": pruned_parts(model),
    }


def _nested(model: "nn.Module") -> dict[str, dict]:
    """Of matrices with nested codes, the precisions that are stored, and the one that is used."""
    from ...nn.precision import nested_matrices

    layers = nested_matrices(model).items()
    return {name: {"precisions": list(layer.nested), "used": layer.used_precision} for name, layer in layers}
