"""Names relative to the encoder, so that one assignment fits every head."""

from collections.abc import Callable, Iterator

from torch import nn
from transformers import PreTrainedModel


def part_name(model: nn.Module) -> str:
    """Name of the model inside that alone is quantized, as the config says; `""` where the whole is."""
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    name = getattr(config, "inside", "")
    return name if name and _has(model, name) and isinstance(model.get_submodule(name), PreTrainedModel) else ""


def part_of(model: nn.Module) -> nn.Module:
    """The model inside that alone is quantized, or the whole."""
    return model.get_submodule(part_name(model))


def body_name(model: nn.Module) -> str:
    """Name of the encoder inside a model: its `base_model_prefix`, or where a model of one's own keeps it; `""` of a
    bare encoder, and where there is no one encoder. Of a model inside that alone is quantized, its encoder."""
    part = part_name(model)
    return ".".join(filter(None, (part, _body_name(model.get_submodule(part)))))


def _body_name(model: nn.Module) -> str:
    prefix = getattr(model, "base_model_prefix", "")
    if prefix and _has(model, prefix):
        return prefix
    found = encoders_inside(model)
    return found[0] if len(found) == 1 else ""


def body_of(model: nn.Module) -> nn.Module:
    """The encoder inside a model; a bare one is its own."""
    return model.get_submodule(body_name(model))


def relative_name(model: nn.Module, name: str) -> str:
    """`bert.encoder.layer.0...` of a classifier becomes `encoder.layer.0...`, as the bare model calls it."""
    return relative_names(model)(name)


def relative_names(model: nn.Module) -> Callable[[str], str]:
    """`relative_name` in one model, for many names: where its encoder is, is looked for once."""
    given = (body_name(model) or getattr(model, "base_model_prefix", ""), part_name(model))
    prefixes = [f"{prefix}." for prefix in given if prefix]

    def relative(name: str) -> str:
        return name.removeprefix(next((prefix for prefix in prefixes if name.startswith(prefix)), ""))

    return relative


def relative_modules(model: nn.Module, kinds: type | tuple[type, ...] = nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Relative name and module of everything of some kinds inside a model, each module once."""
    relative = relative_names(model)
    return ((relative(name), module) for name, module in modules_by_name(model) if isinstance(module, kinds))


def modules_by_name(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """What `model.named_modules()` gives, each module once, in less time: loading asks for it often."""
    found, seen, waiting = [], set(), [("", model)]
    while waiting:
        name, module = waiting.pop()
        if module not in seen:
            seen.add(module)
            found.append((name, module))
            above = f"{name}." if name else ""
            children = reversed(module._modules.items())
            waiting += [(above + part, child) for part, child in children if child is not None]
    return found


def absolute_name(model: nn.Module, name: str) -> str | None:
    """The inverse; None when the model has no such module (another head, say)."""
    return absolute_names(model)(name)


def absolute_names(model: nn.Module) -> Callable[[str], str | None]:
    """`absolute_name` in one model, for many names."""
    prefixes = [f"{prefix}." for prefix in (body_name(model), part_name(model)) if prefix] + [""]

    def absolute(name: str) -> str | None:
        return next((full for full in (f"{prefix}{name}" for prefix in prefixes) if _has(model, full)), None)

    return absolute


def encoders_inside(model: nn.Module) -> list[str]:
    """Names of the models of the same type inside a model that has none under `base_model_prefix`."""
    if not isinstance(model, PreTrainedModel):
        return []
    inside = ((name, module) for name, module in _near(model) if isinstance(module, PreTrainedModel))
    return [name for name, module in inside if module.config.model_type == model.config.model_type]


def _near(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Children and their children: deep enough for an encoder in a container, and quick."""
    children = list(model.named_children())
    return children + [
        (f"{name}.{inner}", module)
        for name, child in children
        if not isinstance(child, PreTrainedModel)
        for inner, module in child.named_children()
    ]


def _has(model: nn.Module, name: str) -> bool:
    for part in name.split("."):
        model = model._modules.get(part)
        if model is None:
            return False
    return True
