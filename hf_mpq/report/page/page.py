"""`write_html`: one page about one model, whole in one file."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from torch import nn

from ...core.files import write_text
from ...runs.reader import read_run
from ..figures.theme import DARK, LIGHT
from ..measures.loading import loaded
from ..measures.model_summary import ModelSummary
from ..measures.size_report import size_report
from ..measures.summary import summarize
from .page_parts import PRECISIONS, colours, groups, matrices, places, subtitle, tiles
from .page_pictures import front_pictures, model_pictures, run_pictures


def write_html(
    path: str | Path,
    model_or_dir: nn.Module | str | Path,
    run_folder: str | Path | None = None,
    *,
    summary: ModelSummary | None = None,
    runs: Sequence[Mapping[str, Any]] | str | Path | None = None,
    front: Mapping[str, Any] | None = None,
    title: str | None = None,
    command: str | None = None,
    **measured: Any,
) -> Path:
    """Write one HTML page with a model's metrics, bit map, sizes, and what its run left: it needs no other file, no
    network and no script, and follows the reader's light or dark setting.

    Args:
        path: of the file.
        model_or_dir: a model, packed or trainable, or the folder of one.
        run_folder: `output_dir` of the `MPQTrainer` that made it: adds the search's course and its scores.
        summary: as `summarize` gave it; by default it is called with `measured` (`teacher`, `data`, `scores`,
            `measure=False`, ...).
        runs: rows or file for `pareto_front`, and `front` its other arguments.
        title: by default the folder's name, or the model's class.
        command: what made the model.

    Returns:
        The path.

    Raises:
        OSError: when the folder holds no model.
        ValueError: when the run folder holds no run, or an argument of `summarize` does not fit.
    """
    model = loaded(model_or_dir)
    if summary is None:
        summary = summarize(model_or_dir, run_folder=run_folder, **measured)
    run = None if run_folder is None else read_run(run_folder)
    report = size_report(model)
    table = list(matrices(model, report))
    name = type(model).__name__ if isinstance(model_or_dir, nn.Module) else Path(model_or_dir).resolve().name
    page = _template().render(
        title=title or name,
        subtitle=subtitle(summary, run),
        tiles=list(tiles(summary)),
        groups=groups(summary),
        places=list(places(report)),
        matrices=table,
        present={bits for row in table for bits in row["histogram"]},
        precisions=PRECISIONS,
        light=colours(LIGHT),
        dark=colours(DARK),
        command=command,
        version=version("hf_mpq"),
        pictures=[*model_pictures(model, summary), *run_pictures(run, run_folder), *front_pictures(runs, front or {})],
    )
    write_text(path, page)
    return Path(path)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hf_mpq.report.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html.j2")
