"""Where a packed model comes from: its float model on the Hub, the command, the versions; no path, no secret."""

import re
import shlex
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import nn

from .config import MPQConfig

OWN, HIDDEN = "hf-mpq", "..."
COMMANDS = ("compress", "demo", "train")
"""Of `hf-mpq`, those that pack."""
SHOWN = frozenset(
    (
        "method",
        "bits",
        "groups",
        "activation_bits",
        "embedding_bits",
        "projection_bits",
        "attention_bits",
        "budget",
        "quantizer",
        "gate",
        "mask",
        "nested",
        "switchable_norms",
        "activation",
        "scale_dtype",
        "float_dtype",
        "low_rank",
        "max_drop",
        "shape",
        "scorer",
        "allocator",
        "rounding",
        "examples",
        "eval_rows",
        "max_length",
        "data",
        "task",
        "task_name",
        "data_config",
        "epochs",
        "rows",
        "learning_rate",
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "warmup_steps",
        "warmup_ratio",
        "weight_decay",
        "lr_scheduler_type",
        "optim",
        "seed",
        "bf16",
        "fp16",
        "max_seq_length",
        "search_fraction",
        "selection_examples",
        "calibration_examples",
    )
)
"""Options that a card shows, whatever program they are of."""
_NUMBERS = re.compile(r"-?\d[\d.]*(e-?\d+)?([a-zA-Z]{1,4}|%)?(,\d+)*")
_WORDS = re.compile(r"(?!(hf|gh\w|sk|xox\w)[_-])[a-zA-Z]+\d{0,4}([-_+][a-z]+\d{0,4}){0,3}")
_LONGEST = 24


def hub_name(name: str | Path | None) -> str | None:
    """The name where it can be that of a Hub repository; None for a folder of this machine."""
    if not name or Path(name).exists():
        return None
    try:
        validate_repo_id(str(name))
    except HFValidationError:
        return None
    return str(name)


def remember_base(model: nn.Module, config: MPQConfig) -> None:
    """Note in a config which model of the Hub is being quantized; what it says already stays where that is none."""
    name = hub_name(model.name_or_path)
    if name is not None:
        config.origin = {"base_model": name}


def remember_making(config: MPQConfig) -> None:
    """Note in a config the running command and the versions of the libraries."""
    versions = {name: _version(name) for name in ("hf_mpq", "transformers", "torch")}
    command = command_line()
    config.origin = {**config.origin, **({"command": command} if command else {}), "versions": versions}


@cache
def _version(name: str) -> str:
    """Looked up once: the metadata of a package are read anew each time, which takes as long as packing a layer."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def command_line() -> str | None:
    """What is known to be harmless of the running command; None in a notebook or an interactive session.

    The program, and options of `SHOWN` with numbers, budgets and plain words; `...` stands for everything else: what
    options and arguments of others hold, paths and secrets among it, cannot be known.
    """
    spec, (program, *words) = sys.modules["__main__"].__spec__, sys.argv or [""]
    module = spec.name.removesuffix(".__main__") if spec is not None else None
    if program in ("", "-c", "-m") or (module or "").startswith("ipykernel") or "ipykernel_launcher" in program:
        return None
    name = re.split(r"[\\/]", program)[-1]
    if module is not None:
        start = ["python", "-m", module]
    elif name == OWN or name.endswith(".py"):
        start = ["python", name] if name.endswith(".py") else [name]
    else:
        start = [HIDDEN]
    if start == [OWN] and words and words[0] in COMMANDS:
        start.append(words.pop(0))
    return shlex.join([*start, *_shown(words)])


def _shown(words: list[str]) -> list[str]:
    """The options that are shown, and one `HIDDEN` for what is not between them."""
    found: list[str] = []
    while words:
        name, sign, value = words[0].partition("=")
        known = name.startswith("--") and name[2:].replace("-", "_") in SHOWN
        after = [value] if sign else [] if len(words) < 2 or words[1].startswith("--") else [words[1]]
        if known and all(map(_is_harmless, after)):
            found += [words[0]] if sign else [name, *after]
            words = words[1:] if sign else words[1 + len(after) :]
            continue
        if found[-1:] != [HIDDEN]:
            found.append(HIDDEN)
        words = words[1:]
    return found


def _is_harmless(value: str) -> bool:
    """A number, a budget, a list of them, or a word that is no file here."""
    if len(value) > _LONGEST:
        return False
    return bool(_NUMBERS.fullmatch(value) or (_WORDS.fullmatch(value) and not Path(value).exists()))
