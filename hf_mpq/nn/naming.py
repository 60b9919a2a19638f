"""Names relative to the base model, so that one assignment fits every head."""

from torch import nn


def relative_name(model: nn.Module, name: str) -> str:
    """`bert.encoder.layer.0...` of a classifier becomes `encoder.layer.0...`, as the bare model calls it."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    return name.removeprefix(prefix) if len(prefix) > 1 else name


def absolute_name(model: nn.Module, name: str) -> str | None:
    """The inverse; None when the model has no such module (another head, say)."""
    prefix = getattr(model, "base_model_prefix", "")
    return next((full for full in (f"{prefix}.{name}", name) if _has(model, full)), None)


def _has(model: nn.Module, name: str) -> bool:
    for part in name.split("."):
        model = model._modules.get(part)
        if model is None:
            return False
    return True
