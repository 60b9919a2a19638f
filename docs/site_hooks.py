"""What the site has beside the pages in `docs`: pages that lie elsewhere in the repository, and the registered parts.

mkdocs calls the functions that begin with `on_`; `make docs` builds the site.
"""

import inspect
import posixpath
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("CONTRIBUTING.md", "CHANGELOG.md", "recipes/README.md")
"""Pages of the site that lie outside `docs`, under the same names."""
PARTS = "reference/parts.md"
METHODS = "methods/README.md"
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
MODULE = re.compile(r"^::: (\S+)$", re.MULTILINE)
FENCED = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
REGISTRIES = (
    ("Scorers", "how much each precision hurts", "hf_mpq.search", "SCORERS"),
    ("Allocators", "which precision each sub-group gets within a budget", "hf_mpq.search", "ALLOCATORS"),
    ("Rounding", "better codes than the nearest, without labels", "hf_mpq.rounding", "ROUNDERS"),
    ("Outliers", "channels of activations made alike", "hf_mpq.outliers", "OUTLIERS"),
    ("Quantizers", "`MPQConfig(quantizer=...)`", "hf_mpq.weights", "QUANTIZERS"),
    ("Activations", "`MPQConfig(activation=...)`", "hf_mpq.weights", "ACTIVATIONS"),
    ("Gates", "`MPQConfig(gate=...)`: what yields the precision while it is searched", "hf_mpq.weights", "GATES"),
    ("Masks", "`MPQConfig(mask=...)`", "hf_mpq.weights", "MASKS"),
    ("Transforms", "`MPQConfig(transforms=...)`", "hf_mpq.weights", "TRANSFORMS"),
    ("Sources", "`MPQConfig(source=...)`: where the float weight comes from", "hf_mpq.weights", "SOURCES"),
    (
        "Gradients of rounding",
        "`gradient=` of quantizers that learn",
        "hf_mpq.weights.rounding_gradients",
        "ROUNDING_GRADIENTS",
    ),
    ("Objectives", "loss terms of a stage", "hf_mpq.training.objectives", "OBJECTIVES"),
    ("Search strategies", "`strategy` of a stage", "hf_mpq.search.strategies", "STRATEGIES"),
    ("Penalties", "how a search is held to its budget", "hf_mpq.search.strategies", "PENALTIES"),
    ("Schedules", "what else changes by time in a stage", "hf_mpq.search.schedules", "SCHEDULES"),
    ("Reshapes", "`reshape` of a stage: what its model is made of before", "hf_mpq.nn.widening", "RESHAPES"),
    ("Combiners", "how gradients of several passes are merged", "hf_mpq.training.gradients", "COMBINERS"),
    ("Costs", "what a budget is about", "hf_mpq.cost", "COSTS"),
    ("Encodings", "what stored codes mean", "hf_mpq.weights", "ENCODINGS"),
    ("Export formats", "`hf_mpq.export(model, format, ...)`", "hf_mpq.exporters", "EXPORTERS"),
    ("Backends", "`hf_mpq.prepare(model, backend=...)`", "hf_mpq.runtime", "BACKENDS"),
    ("Tasks", "`hf_mpq.tasks.get_task(...)`", "hf_mpq.tasks", "TASKS"),
)

NOT_HERE = {"method", "start of the gates", "measure of latencies"}
"""One with pages of its own, and those of options of other parts."""


def on_config(config: Any) -> None:
    """The page of every method stands below their list."""
    found = sorted(page.name for page in (ROOT / "docs" / "methods").glob("*.md") if page.name != "README.md")
    pages = [{name.removesuffix(".md"): f"methods/{name}"} for name in found]
    config.nav = [
        {"Methods": [{"All methods": METHODS}, *pages]} if METHODS in one.values() else one for one in config.nav
    ]


def on_files(files: Any, config: Any) -> None:
    """Add the pages from elsewhere, and that of the parts."""
    from mkdocs.structure.files import File

    for name in ELSEWHERE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, PARTS, content=parts()))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text with links as they are on the site, and modules of the reference written out."""
    name = page.file.src_uri
    linked = for_site(markdown, name if name in ELSEWHERE else f"docs/{name}")
    return MODULE.sub(lambda match: documented(match[1]), linked) if name.startswith("reference/") else linked


def for_site(markdown: str, path: str) -> str:
    """The text of the page at `path` of the repository, with its links as they are on the site; what the site does not
    have stays as words."""
    here = posixpath.dirname(place(path) or path)

    def moved(match: re.Match) -> str:
        words, target, anchor = match.groups()
        found = place(posixpath.normpath(posixpath.join(posixpath.dirname(path), target)))
        return words if found is None else f"[{words}]({posixpath.relpath(found, here or '.')}{anchor or ''})"

    pieces, end = [], 0
    for code in FENCED.finditer(markdown):
        pieces += [LINK.sub(moved, markdown[end : code.start()]), code.group()]
        end = code.end()
    return "".join([*pieces, LINK.sub(moved, markdown[end:])])


def documented(name: str) -> str:
    """The section of a module: what it says of itself, and an entry for each of its public names.

    Names are looked up in the module, because many come when they are asked for, and an entry is made where the object
    is defined. What `hf_mpq` itself has is documented there alone.
    """
    module, top = import_module(name), import_module("hf_mpq")
    verbs = () if module is top else [getattr(top, one) for one in top.__all__]
    objects = {one: getattr(module, one) for one in public(module)}
    described = {one: item for one, item in objects.items() if inspect.isroutine(item) or inspect.isclass(item)}
    entries = {one: item for one, item in described.items() if all(item is not verb for verb in verbs)}
    text = [f"## `{name}`", (inspect.getdoc(module) or "").partition("\n\n")[0]]
    for one, item in sorted(entries.items(), key=lambda pair: pair[0].casefold()):
        shown = f'{{heading: "{one}", toc_label: "{one}", heading_level: 3}}'
        text += [f'<a id="{name}.{one}"></a>', f"::: {item.__module__}.{item.__qualname__}\n    options: {shown}"]
    others = [f"`{one}`" for one in objects if one not in entries]
    return "\n\n".join([*text, f"Also in `{name}`: {', '.join(others)}." if others else ""])


def public(module: Any) -> list[str]:
    """What a module offers: its `__all__`, or all that it defines without an underscore."""
    own = [one for one, item in vars(module).items() if getattr(item, "__module__", "") == module.__name__]
    return list(getattr(module, "__all__", [one for one in own if not one.startswith("_")]))


def place(path: str) -> str | None:
    """Where the site has a file of the repository; None where it does not have it."""
    if path in ELSEWHERE:
        return path
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else None


def parts() -> str:
    """A page of everything that is registered: name, options, and what it does."""
    text = [
        "# Registered parts",
        'A part is written as its name, or with options as `{"name": "hessian", "draws": 8}`, '
        '`hf_mpq.Part("hessian", draws=8)` or, in the shell, `hessian:draws=8`. Names of all that '
        "`MPQConfig`, `compress`, stages and the command line take are here; this page is made from the package.",
    ]
    told = [(title, purpose, getattr(import_module(module), name)) for title, purpose, module, name in REGISTRIES]
    known = {id(table) for *_, table in told}
    others = [table for table in registries() if id(table) not in known and table.kind not in NOT_HERE]
    told += [(f"Of kind: {table.kind}", "parts of other parts", table) for table in others]
    for title, purpose, table in told:
        text += [f"## {title}", f"{purpose[0].upper()}{purpose[1:]}.", "\n".join([*rows(table)])]
    return "\n\n".join(text) + "\n"


def registries() -> list[Any]:
    """All that the sources make at the top of a module, as `NAME: ... = Registry(...)`."""
    found = []
    for path in sorted((ROOT / "hf_mpq").glob("**/*.py")):
        for name in re.findall(r"^(\w+): Registry\[.*= Registry\(", path.read_text(), flags=re.MULTILINE):
            found.append(getattr(import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)), name))
    return found


def rows(table: Mapping[str, Any]) -> Iterator[str]:
    """A table in Markdown."""
    from hf_mpq.core.registry import options_of

    yield from ("| name | what it does | options |", "|---|---|---|")
    for name in sorted(table):
        item = table[name]
        options = (options_of(item) or []) if isinstance(item, type) else []
        known = [f"`{one}`" for one in options if one not in table._passed]
        yield f"| `{name}` | {first_sentence(item)} | {', '.join(known)} |"


def first_sentence(item: Any) -> str:
    """Of what an object says of itself, in one line that fits a cell."""
    text = " ".join((inspect.getdoc(item) or "").partition("\n\n")[0].split())
    end = re.search(r"(?<!al)[.:](?= [A-Z]|$)(?<!e\.g\.)", text)
    sentence = text[: end.start()] + "." if end else text
    return re.sub(r"(`[^`]*`)|\|", lambda match: match[1] or "\\|", sentence)
