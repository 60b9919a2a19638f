"""`hf-mpq verify`: is a packed model good enough, compared with the float one?"""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from .. import options
from ..console import print_json, screen
from ..embedder import Embedder
from ..errors import NO, UserError
from ..models import config_of, load_float, load_packed, load_tokenizer, longest_input
from ..rows.data import Source, open_data
from ..scores import Judge, Judged
from ..typed import check_drop, check_models, check_word, checked_data, checked_precisions
from ..vectors import VectorJudge, check_pair, config_of_pairs, load_float_vectors, load_packed_vectors, vectors_of

DEFAULT_DROP = 1.0
Share = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Fail below this share, 0 to 1.")]


def verify(
    folder: options.Folder,
    teacher: Annotated[str, typer.Option(help="The float model: a folder, or a name on the Hub.")],
    data: Annotated[str, typer.Option(help=options.DATA)],
    max_drop: Annotated[
        float | None, typer.Option(help=f"Fail above so many points of the metric.  [dim]default: {DEFAULT_DROP}[/dim]")
    ] = None,
    min_label_loyalty: Share = None,
    min_probability_loyalty: Share = None,
    data_dir: options.DataDir = None,
    task: options.TaskName = None,
    text_column: options.TextColumns = None,
    label_column: options.LabelColumn = None,
    data_config: options.DataConfig = None,
    eval_rows: options.EvalRows = None,
    max_length: options.MaxLength = 128,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer; default: the packed model's.")] = None,
    bits: options.Precisions = None,
    trust_remote_code: options.Trust = False,
    json: options.Json = False,
) -> None:
    """A quality gate: compare a packed model with its float teacher on labelled data.

    Drop of the task's metric in points (accuracy in percent, say); label loyalty, the share of decisions that are the
    teacher's; probability loyalty, the mean of 1 - sqrt(Jensen-Shannon divergence). Without labels, loyalty alone.
    A text that may have several labels is the teacher's where all of them are; give the labels as lists. Rows without a
    label among labelled ones are left out. A result that is not finite is not good enough. An embedder, or late
    interaction, of sentence-transformers is judged by how alike its vectors are: on pairs of texts with a number, or on
    a ranking.

    [bold]Examples[/bold]

      hf-mpq verify packed --teacher my-fine-tuned-bert --data sst2 --max-drop 1.0
      hf-mpq verify packed --teacher my-fine-tuned-bert --data rows.csv --min-label-loyalty 0.98 --json

    [bold]Exit codes[/bold]: 0 good enough; 1 not; 2 wrong arguments or files, or a damaged model.
    """
    check_models(folder, teacher)
    precisions = checked_precisions(bits)
    data = checked_data(data)
    check_word("task", task)
    check_drop(max_drop)
    limits = {"drop": max_drop, "label_loyalty": min_label_loyalty, "probability_loyalty": min_probability_loyalty}
    source = Source(data, data_dir, task, tuple(text_column or ()), label_column, data_config)
    student: Any
    float_model: Any
    judge: Judge | VectorJudge
    kind = vectors_of(Embedder.of(folder))
    if kind is not None:
        if tokenizer is not None:
            raise UserError("an embedder has its own tokenizer: leave out --tokenizer")
        student = load_packed_vectors(folder, kind, trust_remote_code, precisions)
        float_model = load_float_vectors(teacher, kind, trust_remote_code)
        examples = open_data(source, config_of_pairs(config_of(teacher, trust_remote_code)))
        judge = VectorJudge(examples, max_length, eval_rows)
    else:
        check_pair(folder, teacher)
        student = load_packed(folder, trust_remote_code, precisions)
        float_model = load_float(teacher, trust_remote_code)
        words = load_tokenizer(*([tokenizer] if tokenizer else [folder, teacher]), trust=trust_remote_code)
        examples = open_data(source, float_model.config)
        if max_drop is None and any(limit is not None for limit in limits.values()):
            examples = examples.without_empty_labels()
        judge = Judge(examples, words, longest_input(float_model, max_length), eval_rows)
    first, second = judge.judge(float_model), judge.judge(student)
    found = compare(first, second)
    limits = _limits(limits, found)
    failed = [name for name, limit in limits.items() if _fails(name, found[name], limit)]
    metric = judge.task.headline if judge.task is not None else None
    if json:
        print_json(
            {
                "passed": not failed,
                "failed": failed,
                "metric": metric,
                "rows": len(judge.data),
                **found,
                "limits": limits,
                "metrics": _numbers(second.metrics),
                "float_metrics": _numbers(first.metrics),
            }
        )
    else:
        screen().print(_table(found, limits, metric, len(judge.data)))
        screen().print("[red]FAILED[/red]: " + ", ".join(failed) if failed else "[green]PASSED[/green]")
    if failed:
        raise typer.Exit(NO)


def compare(teacher: Judged, student: Judged) -> dict[str, float | None]:
    """Points of both, the drop, and both loyalties; None where there is none."""
    from ...report.measures.loyalty import loyalty_of

    scored, first, second = teacher.points is not None, teacher.decisions, student.decisions
    found = None if first is None else loyalty_of(zip(second, first, strict=True))
    return {
        "teacher": teacher.points,
        "packed": student.points,
        "drop": teacher.points - student.points if scored else None,
        "label_loyalty": None if found is None else found.labels,
        "probability_loyalty": None if found is None else found.probabilities,
    }


def _limits(given: dict[str, float | None], found: dict[str, float | None]) -> dict[str, float]:
    """The limits that hold: those given, or the default drop.

    Raises:
        UserError: something is to be checked that these data or this model do not have.
    """
    limits = {name: limit for name, limit in given.items() if limit is not None}
    if not limits or (found["drop"] is not None and "drop" not in limits):
        limits = {"drop": DEFAULT_DROP, **limits}
    if "drop" in limits and found["drop"] is None:
        raise UserError(
            "the data have no labels, so there is no metric that could drop: name their column with "
            "--label-column, or check --min-label-loyalty alone"
        )
    if found["label_loyalty"] is None and set(limits) != {"drop"}:
        raise UserError(
            "a model that gives a number has no labels to be loyal to: check --max-drop alone, on rows with labels"
        )
    return limits


def _numbers(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without what a metric tells beside its numbers."""
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}


def _fails(name: str, value: float, limit: float) -> bool:
    """Also for NaN, which is on neither side of a limit."""
    return not (value <= limit if name == "drop" else value >= limit)


def _table(found: dict[str, float | None], limits: dict[str, float], metric: str | None, rows: int) -> Table:
    table = Table("", "found", "limit", title=f"{rows} rows")
    if metric is not None:
        table.add_row(f"{metric}, teacher", f"{found['teacher']:.2f}", "")
        table.add_row(f"{metric}, packed", f"{found['packed']:.2f}", "")
        table.add_row("drop, points", f"{found['drop']:.2f}", f"at most {limits['drop']:g}")
    for name in ("label_loyalty", "probability_loyalty"):
        if found[name] is not None:
            limit = f"at least {limits[name]:g}" if name in limits else ""
            table.add_row(name.replace("_", " "), f"{found[name]:.4f}", limit)
    return table
