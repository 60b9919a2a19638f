"""Where a packed model comes from: its float model on the Hub, the command, the versions; no path of the machine."""

import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import nn

from ..config import MPQConfig

_PATH = re.compile(r"(?<![\w.~/\\:-])(?:~/|/|[A-Za-z]:[\\/])[^\s\"',:;=\[\]{}()]*")
_SECRET_OPTION = re.compile(r"-+[\w-]*(token|key|secret|password)$", re.IGNORECASE)
_SECRET = re.compile(r"\bhf_\w{8,}")
HIDDEN = "..."


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


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def command_line() -> str | None:
    """The running command as one would type it; None in a notebook or an interactive session.

    Absolute paths are written relative to the working folder or as their last part, and secrets are left out.
    """
    spec, (program, *words) = sys.modules["__main__"].__spec__, sys.argv or [""]
    module = spec.name.removesuffix(".__main__") if spec is not None else None
    if program in ("", "-c", "-m") or (module or "").startswith("ipykernel") or "ipykernel_launcher" in program:
        return None
    if module is not None:
        start = ["python", "-m", module]
    elif program.endswith(".py"):
        start = ["python", without_paths(program)]
    else:
        start = [Path(program).name]
    return shlex.join([*start, *(without_paths(word) for word in _without_secrets(words))])


def without_paths(text: str) -> str:
    """The text with each absolute path in it relative to the working folder, or as its last part."""
    option, sign, value = text.partition("=")
    if Path(value or text).is_absolute():  # with spaces in it, perhaps
        return f"{option}{sign}{_short(value)}" if sign else _short(text)
    return _PATH.sub(lambda found: _short(found[0]), text.replace("file:///", "/"))


def _short(path: str) -> str:
    place = Path(path)
    if place.is_absolute() and place.is_relative_to(Path.cwd()):
        return place.relative_to(Path.cwd()).as_posix()
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or path


def _without_secrets(words: list[str]) -> list[str]:
    shown, hide = [], False
    for word in words:
        option, sign, _ = word.partition("=")
        secret = _SECRET_OPTION.match(option) is not None
        shown.append(HIDDEN if hide else f"{option}={HIDDEN}" if secret and sign else _SECRET.sub(HIDDEN, word))
        hide = secret and not sign
    return shown
