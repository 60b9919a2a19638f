"""`hf-mpq compress`: training-free, from a float model to a packed folder."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...core import Budgets, Part
from .. import options
from ..console import print_json, say, screen, watched
from ..embedder import Embedder
from ..errors import UserError, one_line
from ..folders import new_folder
from ..models import load_float, load_tokenizer, longest_input
from ..rows.data import Source, open_data
from ..rows.examples import Examples
from ..saving import check_written, save_whole
from ..scores import scorer
from ..typed import (
    WORDS,
    check_bits,
    check_drop,
    check_method,
    check_models,
    check_word,
    checked_budgets,
    checked_data,
    checked_part,
    numbers,
)
from ..vectors import config_of_pairs, vector_scorer, vectors_of

if TYPE_CHECKING:
    from torch import nn

    from ... import MPQConfig

METHOD_WORDS = "q-bert, hawq-v3, zeroquant, zeroquant-4-8, class-based or ghost"
OPTIONS = "with options as in hessian:draws=8"


def compress(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Float model: a folder, or a name on the Hub.")],
    out: Annotated[Path, typer.Option(help="Folder for the packed model and its tokenizer.")],
    data: options.Data = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="Such as 25% (or 0.25x), 12MB, 2.5bits, 8ms or activations:2500kB; several times: all of them."
        ),
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Instead of a budget: the smallest model at most so many points worse.")
    ] = None,
    bits: Annotated[str | None, typer.Option(help="One precision (4), or candidates (2,3,4,8); 0 prunes.")] = None,
    method: Annotated[str | None, typer.Option(help=f"A published system: {METHOD_WORDS}.")] = None,
    shape: Annotated[
        str | None, typer.Option(help="Reduces the model first: layers:4, or layers:4,hidden:192,rows:768.")
    ] = None,
    scorer_name: Annotated[
        str | None,
        typer.Option("--scorer", help=f"How precisions are scored: {', '.join(WORDS['scorer'])}; {OPTIONS}."),
    ] = None,
    allocator: Annotated[
        str | None, typer.Option(help=f"How a budget is spent, in the same way: {', '.join(WORDS['allocator'])}.")
    ] = None,
    rounding: Annotated[str | None, typer.Option(help="autoround, gptq, nearest or lkd, in the same way.")] = None,
    data_dir: options.DataDir = None,
    task: options.TaskName = None,
    text_column: options.TextColumns = None,
    label_column: options.LabelColumn = None,
    data_config: options.DataConfig = None,
    examples: Annotated[
        int | None,
        typer.Option(min=1, help="Rows of the data to calibrate on; by default 512, of long ones fewer, at least 256."),
    ] = None,
    eval_rows: options.EvalRows = None,
    max_length: options.MaxLength = 128,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer; default: the model's.")] = None,
    pooling: Annotated[
        str | None, typer.Option(help="mean, cls or last: scores are about embeddings; default: the folder's own.")
    ] = None,
    trust_remote_code: options.Trust = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Compress a float model without training, and save it packed, with its tokenizer, and all else that a folder of
    sentence-transformers has.

    Needs a few hundred inputs, no labels; --max-drop needs labels too. --bits N, and scorers and rounding that look at
    weights only, need no inputs.

    [bold]Examples[/bold]

      hf-mpq compress my-fine-tuned-bert --data sst2 --budget 0.25x --out packed
      hf-mpq compress my-fine-tuned-bert --data rows.csv --max-drop 1.0 --out packed
      hf-mpq compress my-fine-tuned-bert --bits 8 --out packed

    [bold]Exit codes[/bold]: 0 done; 2 wrong arguments or files, or a budget that cannot be met; 130 interrupted.
    Unless it is 0, --out is as it was.
    """
    budgets = _check(bits, method, budget, max_drop)
    check_models(model)
    data = checked_data(data)
    check_word("task", task)
    check_word("pooling", pooling)
    typed = {"scorer": scorer_name, "allocator": allocator, "rounding": rounding}
    parts = {kind: checked_part(kind, text) for kind, text in typed.items()}
    source = None
    if data is not None:
        source = Source(data, data_dir, task, tuple(text_column or ()), label_column, data_config)
    with new_folder(out, overwrite, (model, tokenizer, data, data_dir)) as folder, _naming_data(data):
        import hf_mpq

        from ...nn.batches import MOST

        _check_options(parts)
        config = _config(bits, method)
        embedder = Embedder.of(model)
        if embedder is not None and len(embedder.modules) > 1 and "hidden" in (shape or ""):
            raise UserError(
                f"what comes after the encoder of {model} is made for its hidden size: leave hidden out of --shape"
            )
        place = model if embedder is None else embedder.place_of_encoder(model)
        float_model = load_float(place, trust_remote_code)
        words = load_tokenizer(tokenizer or place, trust=trust_remote_code)
        length = longest_input(float_model, max_length)
        of_vectors = vectors_of(embedder) is not None
        head = config_of_pairs(float_model.config) if of_vectors else float_model.config
        found = None if source is None else open_data(source, head)

        def scored(rows: Examples) -> Callable[["nn.Module"], float]:
            if of_vectors and tokenizer is not None:
                raise UserError(
                    "an embedder has its own tokenizer, which --max-drop scores with: leave out --tokenizer"
                )
            if of_vectors:
                return vector_scorer(rows, model, trust_remote_code, length, eval_rows)
            return scorer(rows, words, length, eval_rows)

        small = hf_mpq.compress(
            float_model,
            budgets,
            None if found is None else found.calibration(words, length, examples or MOST, apart=of_vectors),
            config,
            **parts,
            shape=shape,
            max_examples=examples,
            progress=watched(),
            pooling=_pooling(pooling, float_model, embedder),
            **_target(found, max_drop, scored),
        )
        packed = hf_mpq.pack(small)
        save_whole(packed, words, embedder, folder)
        check_written(packed, folder, trust_remote_code)
    report = hf_mpq.size_report(packed)
    if json:
        print_json(
            {
                "folder": str(out),
                "total_bytes": report.total_bytes,
                "ratio": report.ratio,
                "average_bits": report.average_bits,
                "encoder_bytes": report.encoder_bytes,
                "embedding_bytes": report.embedding_bytes,
                "head_bytes": report.head_bytes,
            }
        )
        return
    screen().print(str(report).rstrip())
    say(f"saved in {out}; load it after `import hf_mpq`, look at it with `hf-mpq inspect {out}`")


def _check(bits: str | None, method: str | None, given: list[str] | None, max_drop: float | None) -> Budgets | None:
    """The budgets; what cannot be meant is refused, before anything is loaded.

    Raises:
        UserError: the options say too little or too much.
        ValueError: a budget cannot be read, there is no such method, or no such precision.
    """
    budgets = checked_budgets(given)
    check_drop(max_drop)
    check_method(method)
    fixed = bits is not None and "," not in bits
    if fixed and (budgets is not None or max_drop is not None):
        raise UserError(
            f"--bits {bits} leaves nothing to choose: give candidates, such as --bits 2,3,4,8, or no "
            f"--budget and no --max-drop"
        )
    if budgets is not None and max_drop is not None:
        raise UserError("give either --budget or --max-drop, not both")
    if not fixed and method is None and budgets is None and max_drop is None:
        raise UserError("say how small: --budget 0.25x, --max-drop 1.0 or --bits 4")
    check_bits(bits)
    return budgets


def _check_options(parts: Mapping[str, Part | None]) -> None:
    """Raise ValueError where a part does not have one of its options, before a model is loaded."""
    from ...compression.choices import SLOTS

    for kind, part in parts.items():
        if part is not None:
            SLOTS[kind].check_options(part.name, part.options)


def _config(bits: str | None, method: str | None) -> "MPQConfig | None":
    """What `--bits` and `--method` say; None leaves all to `hf_mpq.compress`."""
    import hf_mpq

    if bits is None:
        return None if method is None else hf_mpq.MPQConfig(method=method)
    values = numbers(bits)
    return hf_mpq.MPQConfig(**{"method": method} if method else {}, bits=values if len(values) > 1 else values[0])


def _pooling(given: str | None, model: "nn.Module", embedder: Embedder | None) -> str | None:
    """What was asked for; else what the folder says of a model without a head."""
    if given is not None or embedder is None or model.base_model is not model:
        return given
    return embedder.pooling


@contextmanager
def _naming_data(data: str | None) -> Iterator[None]:
    """Where `hf_mpq.compress` lacks examples, its error names the option that gives some."""
    try:
        yield
    except ValueError as error:
        if data is None and "no calibration examples" in str(error):
            raise UserError(f"{one_line(error)}: give --data, a task or a file of texts") from error
        raise


def _target(
    found: Examples | None, max_drop: float | None, scored: Callable[[Examples], Callable[["nn.Module"], float]]
) -> dict:
    """Arguments of `hf_mpq.compress` for `--max-drop`, which is in points here."""
    if max_drop is None:
        return {}
    if found is None or found.task is None:
        raise UserError(
            "--max-drop needs labels to score on: give --data a task, or a file with a label column "
            "(--label-column NAME)"
        )
    return {"max_drop": max_drop, "evaluate": scored(found)}
