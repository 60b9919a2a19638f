"""What is not installed with hf_mpq alone, by extra, and the error that names the extra."""

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

EXTRAS = {
    "train": ("accelerate", "datasets", "rich", "scipy"),
    "report": ("jinja2", "matplotlib", "rich", "yaml"),
    "tasks": ("datasets", "evaluate"),
    "cli": ("rich", "typer"),
    "app": ("gradio",),
    "sweep": ("optuna",),
    "ray": ("ray",),
    "embedders": ("sentence_transformers",),
    "peft": ("peft",),
    "carbon": ("codecarbon",),
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "interop": ("compressed_tensors",),
    "gguf": ("gguf",),
    "ctranslate2": ("ctranslate2",),
    "executorch": ("executorch",),
}
"""Extra to the modules that it brings."""


def unmet(extra: str, what: str, modules: tuple[str, ...] = ()) -> str | None:
    """What an extra would bring and is not there, with the command that installs it; None where all is there.

    Args:
        extra: one of `EXTRAS`.
        what: needs it.
        modules: of the extra that are needed; default: all.
    """
    missing = [name for name in modules or EXTRAS[extra] if find_spec(name) is None]
    return f"{what} needs {', '.join(missing)}: pip install 'hf_mpq[{extra}]'" if missing else None


def require(extra: str, what: str) -> AbstractContextManager[None]:
    """Call it before something of an extra is imported, or write `with require(...):` around the import.

    Raises:
        ModuleNotFoundError: when something of the extra is not installed, with the command that installs it.
    """
    words = unmet(extra, what)
    if words:
        raise ModuleNotFoundError(words)
    return nullcontext()
