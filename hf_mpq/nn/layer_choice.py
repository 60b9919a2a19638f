"""Which encoder layers a shallower model keeps, by a rule or by a score."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Registry
from .blocks import encoder_blocks
from .reshape import sizes_of
from .running import evaluating, forward_inputs, real_tokens

Rule = Callable[[nn.Module, int, Sequence[Mapping]], tuple[int, ...]]
LAYER_RULES: Registry[Rule] = Registry("rule for layers")
"""Name to what chooses so many layers of a model, from batches of inputs or without; numbered from 0, ascending."""


@LAYER_RULES.register("even")
def even(model: nn.Module, count: int, batches: Sequence[Mapping] = ()) -> tuple[int, ...]:
    """Evenly spaced from the first to the last, as in DistilBERT (Sanh et al., 2019): 0, 2, 4, 7, 9, 11 of 12."""
    last = sizes_of(model).layers - 1
    return tuple(round(last * one / max(count - 1, 1)) for one in range(count))


@LAYER_RULES.register("first")
def first(model: nn.Module, count: int, batches: Sequence[Mapping] = ()) -> tuple[int, ...]:
    """The first ones; dropping from the top loses least in Sajjad et al. (2020)."""
    return tuple(range(count))


@LAYER_RULES.register("influence")
def influence(model: nn.Module, count: int, batches: Sequence[Mapping] = ()) -> tuple[int, ...]:
    """Layer 0, and of the others those that turn hidden states most: `1 - cos` of what a layer reads and what it gives,
    the mean over real tokens ("block influence" of Men et al., ShortGPT, 2024, who keep layer 0 only by its score).

    Raises:
        ValueError: without batches.
    """
    if not batches:
        raise ValueError(
            "choosing layers by influence needs examples: hf_mpq.compress(model, calibration=rows, ...) has them, or "
            "hf_mpq.reshape(model, shape, calibration=rows) before the model is quantized; 'even' and 'first' need none"
        )
    found = influences(model, batches)
    order = sorted(range(1, len(found)), key=lambda layer: (-found[layer], layer))
    return tuple(sorted((0, *order[: count - 1])))


def influences(model: nn.Module, batches: Iterable[Mapping]) -> list[float]:
    """`1 - cos` of what each layer reads and gives, the mean over real tokens; nothing is kept of the batches."""
    blocks = list(encoder_blocks(model).values())
    seen: list[list[Tensor]] = [[] for _ in blocks]
    mask: list[Tensor | None] = [None]

    def record(place: int):
        def hook(block: nn.Module, args: tuple, kwargs: dict, output: Tensor | tuple) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output if isinstance(output, Tensor) else output[0]
            turned = 1 - F.cosine_similarity(before.float(), after.float(), dim=-1)
            seen[place].append(turned.flatten() if mask[0] is None else turned[mask[0].bool()])

        return hook

    hooks = [block.register_forward_hook(record(place), with_kwargs=True) for place, block in enumerate(blocks)]
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                inputs = forward_inputs(model, batch)
                mask[0] = real_tokens(inputs)
                model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(one).mean().item() for one in seen]
