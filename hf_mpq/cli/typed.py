"""What was typed, checked before anything heavy is imported or loaded."""

import json
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from ..core import METHODS, Budgets, Part, budgets_of, nearest, unknown
from .errors import UserError
from .models import check_place, is_path
from .rows.files import READERS

if TYPE_CHECKING:
    from ..plugin.precision import Bits

WORDS = {
    "scorer": ("class-importance", "distance", "distribution", "fisher", "gradient", "hessian", "kl"),
    "allocator": (
        "bidirectional",
        "distortion",
        "greedy",
        "lagrangian",
        "milp",
        "ranked",
        "schemes",
        "sorted-layers",
        "threshold",
        "uniform",
    ),
    "rounding": ("autoround", "gptq", "lkd", "nearest"),
    "export format": (
        "compressed-tensors",
        "ctranslate2",
        "dense",
        "executorch",
        "gguf",
        "onnx",
        "onnx-nbits",
        "openvino",
        "transformers.js",
        "w8a8",
    ),
    "task": (
        "cola",
        "conll2003",
        "docstrings",
        "mnli",
        "mrpc",
        "qnli",
        "qqp",
        "ranking",
        "rte",
        "squad",
        "squad-ranking",
        "sst2",
        "stsb",
        "wnli",
    ),
    "activations": ("dynamic", "float", "static", "trained"),
    "pooling": ("cls", "last", "mean"),
    "backend": ("cpu-float", "cpu-int8", "cpu-native", "cuda", "cuda-float", "reference"),
}
"""Names that come with hf_mpq, which registers them where they are defined, beside much that is slow to import."""


def check_word(kind: str, word: str | None) -> None:
    """Raise UserError when a word is none of the names of that kind; None was not given."""
    if word is not None and word.casefold() not in WORDS[kind]:
        raise UserError(unknown(kind, word, WORDS[kind]))


def checked_part(kind: str, text: str | None) -> Part | None:
    """What was typed as a name, as `name:option=value,option=value` or as JSON; None was not given. Options are checked
    where the parts are, which is slow to import.

    Raises:
        UserError: it is none of these, or the name is none of that kind.
    """
    if text is None:
        return None
    try:
        part = Part.parse(text, kind)
    except ValueError as error:
        raise UserError(str(error)) from error
    check_word(kind, part.name)
    return part


def check_method(name: str | None) -> None:
    """Raise ValueError when there is no such method."""
    if name is not None:
        METHODS.name_of(name)


def checked_budgets(texts: list[str] | None) -> Budgets | None:
    """What `--budget` says, once or several times, for one model; None was not given.

    Raises:
        BudgetError: one cannot be read, or two limit the same thing.
    """
    return budgets_of(texts or None) or None


def check_models(*sources: str | Path | None) -> None:
    """Raise UserError when a folder is not there, or holds no model."""
    for source in sources:
        if source is not None:
            check_place(source)


def check_drop(drop: float | None) -> None:
    """Raise UserError for a --max-drop that is no number."""
    if drop is not None and not isfinite(drop):
        raise UserError(f"--max-drop is a number of points, such as 1.0; got {drop}")


def checked_data(name: str | None) -> str | None:
    """The name of a task as it is registered, or what was given: a file, a folder, or what may be a name on the Hub.

    Raises:
        UserError: it is none of these.
    """
    if name is None or Path(name).exists() or _may_be_on_the_hub(name):
        return name
    if name.casefold() in WORDS["task"]:
        return name.casefold()
    meant = nearest(name, WORDS["task"])
    hint = f" (did you mean {meant!r}?)" if meant is not None else ""
    raise UserError(
        f"there is no task, file or folder {name!r}{hint}: give one of the tasks "
        f"{', '.join(WORDS['task'])}, or a file ({', '.join(sorted(READERS))})"
    )


def _may_be_on_the_hub(name: str) -> bool:
    return name.count("/") == 1 and not Path(name).suffix and not is_path(name)


def check_bits(text: str | None) -> None:
    """Raise UserError when `--bits` is no precision, nor several."""
    if text is not None and not all(0 <= one <= 8 for one in numbers(text)):
        raise UserError(f"--bits {text}: bits must be whole numbers from 0 (pruned) to 8")


def numbers(text: str) -> tuple[int, ...]:
    """`--bits` as numbers: `"4"` or `"2,3,4,8"`.

    Raises:
        UserError: it is something else.
    """
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--bits {text!r} is not understood: write one number (4) or several (2,3,4,8)") from None


def checked_precisions(text: str | None) -> "Bits | None":
    """`--bits` of a nested model: `"4"`, `"query=8,layer.0=2"`, the same as a JSON object, or a budget; None was not
    given.

    Raises:
        UserError: it is none of these.
    """
    if text is None or text.strip().isdigit():
        return None if text is None else int(text)
    if text.lstrip().startswith("{"):
        return _from_json(text)
    if "=" not in text:
        budgets_of(text)
        return text
    pairs = [part.rpartition("=") for part in text.split(",")]
    if not all(number.strip().isdigit() for _, _, number in pairs):
        raise UserError(f"--bits {text!r} is not understood: write pattern=bits with commas between, such as query=8")
    return {pattern.strip(): int(number) for pattern, _, number in pairs}


def _from_json(text: str) -> dict[str, int]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"--bits {text!r} is no JSON ({error}): write for example '{{\"query\": 8}}'") from error
    if not isinstance(found, dict) or not all(type(bits) is int for bits in found.values()):
        raise UserError(f"--bits {text!r} is no object of patterns with bits: write for example '{{\"query\": 8}}'")
    return found
