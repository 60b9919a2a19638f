"""One page for each registered method, in `docs/methods`: its paper, what it does, how it is run, what was measured.

python docs/method_pages.py
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from hf_mpq.core import METHODS, MethodSpec, StageSpec
from hf_mpq.report.board.intervals import pairs_of
from hf_mpq.report.board.lines import lines_of
from hf_mpq.report.board.sources import Source, read_sources
from hf_mpq.report.board.tables import leaderboard, question_tables
from hf_mpq.search.strategies import STRATEGIES

PAGES = Path(__file__).parent / "methods"
ROWS = Path(__file__).parents[1] / "benchmarks" / "rows"
METHOD_RECIPES = Path(__file__).parents[1] / "recipes" / "methods"
_WITHOUT_TRAINING = "those that train nothing are `hf_mpq.compress(..., method=...)`."
RECIPES, GUIDE, RESULTS = "../../recipes", "../guides/train.md", "../results/README.md"


def main() -> None:
    """Write every page, and the index."""
    PAGES.mkdir(exist_ok=True)
    for name, text in pages().items():
        (PAGES / name).write_text(text)


def pages() -> dict[str, str]:
    """File name to Markdown."""
    sources = read_sources(ROWS)
    return {"README.md": _index(), **{f"{name}.md": _page(METHODS[name], sources) for name in METHODS}}


def _index() -> str:
    lines = [f"| [`{name}`]({name}.md) | {_first(METHODS[name].summary)} | {METHODS[name].paper} |" for name in METHODS]
    table = "\n".join(["| method | what it does | source |", "|---|---|---|", *lines])
    return f"# Methods\n\nEach is `MPQConfig(method=...)` or a recipe; {_WITHOUT_TRAINING}\n\n{table}\n"


def _first(summary: str) -> str:
    return summary.partition(". ")[0].rstrip(".") + "."


def _page(method: MethodSpec, sources: Sequence[Source]) -> str:
    parts = [
        f"# `{method.name}`",
        f"{method.paper[0].upper()}{method.paper[1:]}.",
        method.summary,
        f"## Run it\n\n{_command(method)}",
        f"## Its parts\n\n{_parts(method)}",
    ]
    if method.deviations:
        parts.append("## Not as in the paper\n\n" + "\n".join(f"- {one}" for one in method.deviations))
    return "\n\n".join([*parts, f"## Measured\n\n{_measured(method.name, sources)}"]) + "\n"


def _command(method: MethodSpec) -> str:
    """In the shell and in Python, ready to be typed, with the budget of the recipe."""
    return "\n\n".join(_trained(method) if method.stages else _compressed(method))


def _trained(method: MethodSpec) -> list[str]:
    recipe = yaml.safe_load((METHOD_RECIPES / f"{method.name}.yaml").read_text())
    budget, stages = recipe.get("budget"), recipe.get("stages")
    kind, start = ("AutoModelForSequenceClassification", "my-fine-tuned-bert")
    if _stays_float(method):
        kind, start = "AutoModelForMaskedLM", "my-pretrained-bert"
    elif method.config.get("mask") == "locked":
        start = "my-pruned-bert"
    lines = [
        f"from transformers import {kind}",
        "from hf_mpq import MPQConfig, MPQTrainer, MPQTrainingArguments",
        "",
        f'config = MPQConfig(method="{method.name}"{f", budget={json.dumps(budget)}" if budget else ""})',
        f'model = {kind}.from_pretrained("{start}", quantization_config=config)',
        *([f"stages = {json.dumps(stages)}"] * bool(stages)),
        f'arguments = MPQTrainingArguments("out", num_train_epochs=3, learning_rate={recipe["learning_rate"]:g}'
        f"{', stages=stages' * bool(stages)})",
        "trainer = MPQTrainer(model, arguments, train_dataset=train, data_collator=collator, "
        "processing_class=tokenizer)",
        "trainer.train()",
        'trainer.save_float("my-pruned-bert")' if _stays_float(method) else 'trainer.save_packed("packed")',
    ]
    if method.config.get("nested"):
        lines += [f'model = {kind}.from_pretrained("packed", bits=3)  # or another']
    if _searches(method.stages[-1]):
        lines += ['found = trainer.assignments(["3bits", "2bits"])  # of other budgets, without training again']
        lines += ['trainer.save_packed("packed-2bits", found[1])']
    return [
        _code("bash", _shell(method, start)),
        _code("python", "\n".join(lines)),
        *(["Both have the stages of the recipe, which are not the method's own."] * bool(stages)),
        f"What `MPQTrainer` is given is in [the guide to training]({GUIDE}), what the recipes take and write in "
        f"[their page]({RECIPES}/README.md).",
    ]


def _shell(method: MethodSpec, start: str) -> str:
    if _stays_float(method):
        return (
            f"python recipes/pretrain_sparse.py --model_name_or_path {start} --text corpus.txt \\\n"
            "    --output_dir out/sparse --learning_rate 1e-4 --max_steps 100000"
        )
    return (
        f"python recipes/run_glue.py recipes/methods/{method.name}.yaml recipes/tasks/sst2.yaml \\\n"
        f"    --model_name_or_path {start} --output_dir out/sst2"
    )


def _stays_float(method: MethodSpec) -> bool:
    """Whether nothing is rounded in any stage: what comes out is a float checkpoint."""
    return not any(stage.rounding for stage in method.stages)


def _compressed(method: MethodSpec) -> list[str]:
    option, given = "", "calibration=tokenized_rows"
    if _chooses(method):
        option, given = " --budget 6bits", '"6bits", tokenized_rows'
    shell = f"hf-mpq compress my-fine-tuned-bert --method {method.name} --data sst2{option}"
    return [
        _code("bash", f"{shell} --out packed"),
        _code("python", f'small = hf_mpq.compress(model, {given}, method="{method.name}")'),
    ]


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _chooses(method: MethodSpec) -> bool:
    """Whether it decides precisions within a budget."""
    return method.allocator is not None or any(map(_searches, method.stages))


def _searches(stage: StageSpec) -> bool:
    return stage.strategy is not None and STRATEGIES[stage.strategy].searches


def _parts(method: MethodSpec) -> str:
    fields = ", ".join(f"{key}={value!r}" for key, value in method.config.items())
    free = [
        f"{slot} `{getattr(method, slot)}`{_options(getattr(method, slot + '_options'))}"
        for slot in ("scorer", "allocator", "rounding")
        if getattr(method, slot)
    ]
    points = {
        "Config": f"`MPQConfig({fields})`" if fields else "",
        "Without training": ", ".join(free),
        "Stages": "; ".join(map(_stage, method.stages)),
    }
    return "\n".join(f"- **{word}**: {text}" for word, text in points.items() if text)


def _stage(stage: StageSpec) -> str:
    words = [" + ".join(name + _options(options) for name, options in stage.objectives.items())]
    words += [f"{stage.strategy} {'search' if _searches(stage) else 'strategy'}"] if stage.strategy else []
    words += [name + _options(options) for name, options in stage.schedules.items()]
    return f"`{stage.name}` ({', '.join(words)})"


def _options(options: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{key}={value!r}' for key, value in options.items())})" if options else ""


def _measured(name: str, sources: Sequence[Source]) -> str:
    """Its lines of the leaderboard, and of every other question that has rows of it."""
    lines = [line for line in lines_of(sources) if line.method == name]
    parts = [leaderboard(lines, pairs_of(sources)).markdown()] if lines else []
    for source in sources:
        rows = tuple(row for row in source.rows if row.get("method") == name)
        if rows and not source.compares_methods:
            question = f"[{source.about['question']}](../results/{source.about['page']}.md)"
            tables = question_tables(replace(source, rows=rows)).values()
            parts += [f"{question} {source.about.get('before', '').strip()}", *(table.markdown() for table in tables)]
    if not parts:
        return f"Not yet. [The results]({RESULTS}) have what was measured of others."
    foot = f"Commands, machines and the float models are in [all results]({RESULTS}), beside the other methods."
    return "\n\n".join([*parts, foot])


if __name__ == "__main__":
    main()
