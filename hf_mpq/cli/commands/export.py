"""`hf-mpq export`: files that need no hf_mpq to run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from .. import options
from ..console import print_json, say
from ..embedder import Embedder
from ..errors import UserError, one_line
from ..folders import MANIFEST, new_folder
from ..models import load_packed, load_tokenizer, longest_input
from ..rows.data import Source, open_data
from ..typed import check_models, check_word, checked_data, checked_precisions
from ..vectors import vectors_of

OPTIONS = (
    (r"calibration=<[^>]*>", "--data, a task or a file of texts"),
    (r"activations='(\w+)'", r"--activations \1"),
)
"""Arguments of `hf_mpq.export` as errors name them, and the options that they are here."""


@contextmanager
def _naming_options() -> Iterator[None]:
    """Errors of `hf_mpq.export` name the options of the command."""
    try:
        yield
    except ValueError as error:
        text = one_line(error)
        for argument, option in OPTIONS:
            text = re.sub(argument, option, text)
        raise UserError(text) from error


def export(
    folder: options.Folder,
    format: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="onnx, onnx-nbits, transformers.js, openvino, gguf, ctranslate2, compressed-tensors, w8a8, executorch "
            "or dense.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    data: options.Data = None,
    activations: Annotated[str | None, typer.Option(help="static, dynamic, trained or float.")] = None,
    data_dir: options.DataDir = None,
    task: options.TaskName = None,
    text_column: options.TextColumns = None,
    label_column: options.LabelColumn = None,
    data_config: options.DataConfig = None,
    examples: Annotated[int, typer.Option(min=1, help="Rows of the data that fix activation ranges.")] = 128,
    max_length: options.MaxLength = 128,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer; default: the packed model's.")] = None,
    bits: options.Precisions = None,
    overwrite: options.Overwrite = False,
    trust_remote_code: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Write a packed model for another runtime, with its tokenizer, and all else that a folder of
    sentence-transformers has.

    With --data, ranges of activations are fixed in the file, which is faster; without, they are found in every pass.

    [bold]Examples[/bold]

      hf-mpq export packed onnx --data sst2 --out onnx
      hf-mpq export packed dense --out dense

    [bold]Exit codes[/bold]: 0 done; 2 wrong arguments or files, or a package that is missing; 130 interrupted.
    Unless it is 0, --out is as it was.
    """
    check_word("export format", format)
    check_word("activations", activations)
    check_models(folder)
    precisions = checked_precisions(bits)
    data = checked_data(data)
    import hf_mpq

    from ...exporters import EXPORTERS

    model, embedder = load_packed(folder, trust_remote_code, precisions), Embedder.of(folder)
    words = load_tokenizer(tokenizer or folder, trust=trust_remote_code)
    rows = None
    if data is not None:
        source = Source(data, data_dir, task, tuple(text_column or ()), label_column, data_config)
        found, length = open_data(source, model.config), longest_input(model, max_length)
        rows = found.calibration(words, length, examples, apart=vectors_of(embedder) is not None)
    with new_folder(out, overwrite, (folder, tokenizer, data, data_dir)) as partial:
        place = partial if embedder is None else embedder.encoder_in(partial)
        with _naming_options():
            hf_mpq.export(
                model,
                format,
                place,
                tokenizer=words,
                calibration=rows,
                activations=activations,
                calibration_examples=examples,
                pooling=embedder.pooling if embedder is not None and EXPORTERS[format].pools else None,
            )
        if embedder is not None:
            embedder.complete(partial)
    files = {
        str(file.relative_to(out)): file.stat().st_size
        for file in sorted(out.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    if json:
        print_json({"folder": str(out), "format": format, "files": files})
        return
    say(f"wrote {out}: " + ", ".join(f"{name} ({size / 1e6:.2f} MB)" for name, size in files.items()))
