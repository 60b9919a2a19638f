"""The pages of results, in `docs/results`: a chart, and a table for each question, from the rows in `benchmarks/rows`.

python docs/result_pages.py
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from hf_mpq.report.board.chart import chart_points, fingerprint, save_chart
from hf_mpq.report.board.intervals import Paired, pairs_of
from hf_mpq.report.board.lines import ORIGIN, TASKS, Line, chosen, lines_of
from hf_mpq.report.board.sources import Source, read_sources
from hf_mpq.report.board.tables import Table, kept, leaderboard, question_tables

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "results"
ROWS = ROOT / "benchmarks" / "rows"
CHARTS = {"retained.svg": 2, "retained-narrow.svg": 1}
"""File to how many pictures are beside each other: the second is for phones."""
LEAST = 2
"""Points in a picture."""
TITLES = {
    "without-training": ("Without training", "What rounding and `compress` keep, with no labels and no training."),
    "training": ("Training choices", "What a search costs, and what some of its choices are worth."),
    "embedders": ("Embedders and rerankers", "Sentence embeddings, late interaction and pairs of texts."),
    "speed": ("Speed and memory", "Milliseconds, seconds and megabytes beside other engines."),
    "sizes": ("Sizes", "Bytes on disk."),
    "exports": ("Exports", "How near each format comes to the packed model, in its own runtime."),
    "compressing": ("Time to compress", "What it takes to make a small model."),
}
"""Page to its title and first sentence, in the order of the site."""
_WRITTEN = "<!-- Written by `python docs/result_pages.py` from benchmarks/rows. -->"
_INTRODUCTION = """The only place that claims accuracy or speed. Every number of a table is a row in
`benchmarks/rows`, with the command that made it, its commit, data, seeds, machine and versions as far as they are
known; rows that were tables of text before name no commit, and what a note adds was read off the same runs. Where
nothing else is said there is one seed, and differences of less than a point mean nothing. `hf-mpq leaderboard` shows
the same rows in a browser, to be searched and drawn anew."""
_CHART = """Stored bytes, embeddings included, against the share of the float model's score that is kept. Bars are 95
% intervals over seeds; the broad pale line is what nothing of at most the same size is better than."""
_KEPT = """Share of the float model's score, in percent. A column was trained alike from the same float model, but for
what a variant names; a method stands above another where its shares lie further above the medians of their columns.
Only runs of at least three methods have a column; all are in the tables [by task](#by-task). A share of 94 to 95 % on
MRPC, and of 81.4 % on RTE, is what one answer for all texts gets."""
_TASKS = """One table for each task: by budget, then by divergence from the float model on rows that nothing was
trained on, which tells methods apart more surely than the score. ± is half the 95 % bootstrap interval over seeds;
`run` is the folder of the rows, [below](#runs). Differences of KL are paired: on the same rows, with a bootstrap
interval over rows and seeds; above zero the line's method is the farther from the float model."""


def main() -> None:
    """Write every page and the chart."""
    PAGES.mkdir(exist_ok=True)
    sources = read_sources(ROWS)
    for name, text in pages(sources).items():
        (PAGES / name).write_text(text, encoding="utf-8")
    lines = lines_of(sources)
    if chart_points(lines, LEAST) and not charts_are_current(sources):
        for name, columns in CHARTS.items():
            save_chart(lines, PAGES / name, columns, LEAST)


def charts_are_current(sources: Iterable[Source]) -> bool:
    """Whether the charts show what the rows say."""
    wanted, files = fingerprint(lines_of(sources), LEAST), [PAGES / name for name in CHARTS]
    return all(file.exists() and wanted in file.read_text(encoding="utf-8") for file in files)


def pages(sources: Sequence[Source]) -> dict[str, str]:
    """File name to Markdown."""
    return {"README.md": _first(sources), **{f"{page}.md": _page(page, sources) for page in TITLES}}


def _first(sources: Sequence[Source]) -> str:
    lines = lines_of(sources)
    parts = ["# Results", _WRITTEN, _INTRODUCTION, _contents()]
    if chart_points(lines, LEAST):
        parts += ["## Which method keeps most at the same bytes?", _picture(), _CHART]
    tables = kept(lines, least=3)
    if tables:
        parts += [_KEPT, *_kept(tables)]
    if lines:
        parts += ["## By task", _TASKS, *_by_task(lines, pairs_of(sources))]
    if lines:
        parts += ["## Runs", *(_run(source, lines) for source in sources if source.compares_methods)]
    return "\n\n".join(parts) + "\n"


def _picture() -> str:
    wide, narrow = CHARTS
    words = "For each task the megabytes of each method against the share of the float score that it keeps"
    return f'<picture><source media="(max-width: 600px)" srcset="{narrow}"><img src="{wide}" alt="{words}"></picture>'


def _contents() -> str:
    return "\n".join(f"- [{title}]({page}.md): {words}" for page, (title, words) in TITLES.items())


def _kept(tables: dict[tuple[str, str], Table]) -> Iterable[str]:
    several = len({model for model, _ in tables}) > 1
    for (model, budget), table in tables.items():
        yield f"### At {budget}" + (f" ({model})" if several else "")
        yield table.markdown()


def _by_task(lines: Sequence[Line], pairs: Sequence[Paired]) -> Iterable[str]:
    """A heading and a table for each model and task."""
    several = len({line.model for line in lines}) > 1
    for model, task in sorted({(line.model, line.task) for line in lines}, key=lambda one: (one[0], _task(one[1]))):
        yield f"### {_task(task)}" + (f" ({model})" if several else "")
        yield leaderboard(chosen(lines, model=model, task=task), pairs).markdown()


def _task(name: str) -> str:
    return TASKS.get(name, name)


def _run(source: Source, lines: Sequence[Line]) -> str:
    own = [line for line in lines if line.source == source.name]
    text = [f"### {source.name}", _facts([line.origin for line in own])]
    return "\n\n".join([*text, *([source.about["notes"].strip()] if "notes" in source.about else [])])


def _page(page: str, sources: Sequence[Source]) -> str:
    title, words = TITLES[page]
    own = [source for source in sources if source.about.get("page") == page]
    parts = [f"# {title}", _WRITTEN, f"{words} [All results](README.md)."]
    for source in sorted(own, key=lambda source: (source.about.get("order", 99), source.name)):
        parts += [f"## {source.about['question']}", *_question(source)]
    return "\n\n".join(parts) + "\n"


def _question(source: Source) -> Iterable[str]:
    about = source.about
    if "before" in about:
        yield about["before"].strip()
    for heading, table in question_tables(source).items():
        if heading:
            yield f"### {heading}"
        yield _whole(table)
    if "notes" in about:
        yield about["notes"].strip()
    yield _facts(source.rows)


def _whole(table: Table) -> str:
    text = table.markdown()
    if not text:
        raise ValueError("a question without rows has no table")
    return text


def _facts(rows: Iterable) -> str:
    """Distinct commands, and what else is known of where rows come from, folded away."""
    rows = list(rows)
    known = {name: list(dict.fromkeys(row[name] for row in rows if row.get(name))) for name in ORIGIN}
    commands = "\n".join(known.pop("command"))
    points = "\n".join(f"- {name}: {'; '.join(map(str, values))}" for name, values in known.items() if values)
    words = "\n\n".join(part for part in (f"```\n{commands}\n```" if commands else "", points) if part)
    return f'<details markdown="1"><summary>Where it comes from</summary>\n\n{words}\n\n</details>' if words else ""


if __name__ == "__main__":
    main()
