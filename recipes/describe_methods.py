"""Print the section of `README.md` that describes every method: its paper, its arguments, and where it deviates.

python recipes/describe_methods.py
"""

from hf_mpq.core import METHODS, MethodSpec


def section() -> str:
    """Every registered method in Markdown."""
    return "\n\n".join(_method(METHODS[name]) for name in METHODS)


def _method(method: MethodSpec) -> str:
    points = [("Run it", _command(method)), *_slots(method)]
    if method.deviations:
        points.append(("Not as in the paper", "".join(f"\n  - {one}" for one in method.deviations)))
    paper = f"{method.paper[0].upper()}{method.paper[1:]}."
    points = [f"- **{word}**: {text}".replace(": \n", ":\n") for word, text in points if text]
    return "\n\n".join([f"### `{method.name}`", paper, "\n".join(points)])


def _command(method: MethodSpec) -> str:
    if method.stages:
        return f"`python recipes/run_glue.py recipes/methods/{method.name}.yaml recipes/tasks/sst2.yaml ...`"
    return f'`hf_mpq.compress(model, ..., method="{method.name}")`'


def _slots(method: MethodSpec) -> list[tuple[str, str]]:
    fields = ", ".join(f"{key}={value!r}" for key, value in method.config.items())
    stages = "; ".join(
        f"`{stage.name}` ({_words(stage.objectives)}{', ' + stage.strategy + ' search' if stage.strategy else ''})"
        for stage in method.stages
    )
    free = [
        f"{slot} `{getattr(method, slot)}`{_options(getattr(method, slot + '_options'))}"
        for slot in ("scorer", "allocator", "rounding")
        if getattr(method, slot)
    ]
    return [
        ("Config", f"`MPQConfig({fields})`" if fields else ""),
        ("Without training", ", ".join(free)),
        ("Stages", stages),
    ]


def _words(objectives) -> str:
    return " + ".join(name + _options(options) for name, options in objectives.items())


def _options(options) -> str:
    return f" ({', '.join(f'{key}={value!r}' for key, value in options.items())})" if options else ""


if __name__ == "__main__":
    print(section())
