"""Features of every layer by hooks, alike in every family."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from .blocks import encoder_blocks
from .families import Family, family_of
from .naming import body_of

_PROJECTIONS = ("query", "key", "value")
FEATURES = ("hidden", *_PROJECTIONS, "attention_output")


class FeatureRecorder:
    """Keeps features of one model while `recording`; its hooks stay in place, so that compiled layers stay compiled.

    Only what runs inside the model's own forward is kept: not what a backward pass computes again where activation
    checkpointing is on, and nothing of a copy of the model, which has the same hooks.

    Features, each a list in the order in which layers are called (shared layers are called several times):

    - `hidden`: what the first layer reads, then what each layer gives, `(batch, tokens, hidden)`;
    - `query`, `key`, `value`: projections of each layer before any rotation, `(batch, tokens, heads * width)`, also
      where one fused matrix holds them;
    - `attention_output`: of the projection after attention, before it is added, `(batch, tokens, hidden)`.

    Args:
        model: of a known family.
        names: which features.

    Raises:
        ValueError: for an unknown feature, or a model whose layers are not known; while recording, for activation
            checkpointing with `use_reentrant=True`, which cuts features off from their gradients.
    """

    def __init__(self, model: nn.Module, names: Collection[str]):
        unknown = sorted(set(names) - set(FEATURES))
        if unknown:
            raise ValueError(f"unknown features {unknown}; the known ones are: {', '.join(FEATURES)}")
        self._kept: dict[str, list[Tensor]] | None = None
        self._waiting: set[str] = set()
        self._running = self._with_gradients = False
        self._handles = []
        names, blocks = set(names), encoder_blocks(model)
        if names and not blocks:
            raise ValueError(
                f"the layers of {model.config.model_type!r} models are not known, so their features "
                "cannot be read; distil from logits only"
            )
        inner = sorted(names - {"hidden"})
        family = family_of(model)
        if inner and family is None:
            raise ValueError(
                f"{', '.join(inner)} of {model.config.model_type!r} models cannot be read; distil from "
                "hidden states or logits"
            )
        self._heads = body_of(model).config.num_attention_heads if inner else 1
        if names:
            self._hook_model(model)
        for block in blocks.values() if names else ():
            self._hook_block(block, "hidden" in names, inner, family)

    @contextmanager
    def recording(self) -> Iterator[dict[str, list[Tensor]]]:
        """The features of the forward pass that runs inside, as a dict that is filled by it."""
        self._kept = {}
        try:
            yield self._kept
        finally:
            self._kept, self._running = None, False

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _hook_model(self, model: nn.Module) -> None:
        def before(module, args):
            self._running = module is model and self._kept is not None
            self._with_gradients = torch.is_grad_enabled()

        def after(module, args, output):
            self._running = False

        self._handles.append(model.register_forward_pre_hook(before))
        self._handles.append(model.register_forward_hook(after))

    def _hook_block(self, block: nn.Module, hidden: bool, inner: list[str], family: Family | None) -> None:
        def before(module, args, kwargs):
            self._waiting = set(inner)
            if hidden and self._running and "hidden" not in self._kept:
                self._add("hidden", args[0] if args else kwargs["hidden_states"])

        def after(module, args, output):
            if hidden and self._running:
                self._add("hidden", output if isinstance(output, Tensor) else output[0])

        self._handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
        self._handles.append(block.register_forward_hook(after))
        for path, features in _places(family, inner).items():
            hook = self._keep(features, family, partial(_three, heads=self._heads if family.by_head else 1))
            self._handles.append(block.get_submodule(path).register_forward_hook(hook))

    def _keep(self, features: list[str], family: Family, cut: Callable[[Tensor], Iterable[Tensor]]):
        """Keep the first output of each call of the layer: projections also run over relative positions."""

        def hook(module, args, output):
            if not self._running or not self._waiting.issuperset(features):
                return
            self._waiting.difference_update(features)
            fused = family.names.fused and features[0] in _PROJECTIONS
            parts = dict(zip(_PROJECTIONS, cut(output))) if fused else {features[0]: output}
            for name in features:
                self._add(name, parts[name])

        return hook

    def _add(self, name: str, feature: Tensor) -> None:
        if self._with_gradients and not torch.is_grad_enabled():
            raise ValueError(
                "activation checkpointing with use_reentrant=True cuts features off from their gradients; "
                'use gradient_checkpointing_kwargs={"use_reentrant": False}'
            )
        self._kept.setdefault(name, []).append(feature)


def _three(output: Tensor, heads: int) -> Iterable[Tensor]:
    """Queries, keys and values of a fused matrix, each `(batch, tokens, heads * width)`, whose rows are those of one of
    `heads` parts after the other."""
    parts = output.unflatten(-1, (heads, 3, -1)).unbind(-2)
    return (part.flatten(-2) for part in parts)


def _places(family: Family | None, inner: list[str]) -> dict[str, list[str]]:
    """Name of a matrix in the layer to the features that its output holds."""
    places: dict[str, list[str]] = {}
    for feature in inner:
        name = "output" if feature == "attention_output" else feature
        places.setdefault(getattr(family.names, name), []).append(feature)
    return places
