"""The encoder layers of a model as blocks that can be run alone, one after the other."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from .families import family_of
from .naming import absolute_names, relative_modules
from .running import evaluating, forward_inputs, real_tokens


@dataclass
class BlockRecord:
    """Every call of one block while some batches ran through the whole model.

    Attributes:
        hidden: first argument of each call, `(batch, tokens, hidden)`.
        others: remaining positional and keyword arguments of each call.
        outputs: hidden states that each call gave, `(batch, tokens, hidden)`.
        masks: which tokens of each call are real, `(batch, tokens)` bool; None when all are.
    """

    hidden: list[Tensor] = field(default_factory=list)
    others: list[tuple[tuple, dict]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    masks: list[Tensor | None] = field(default_factory=list)

    def run(self, block: nn.Module, call: int, hidden: Tensor | None = None) -> Tensor:
        """Call number `call` again, on other hidden states if given; differentiable."""
        args, kwargs = self.others[call]
        return _hidden_of(block(self.hidden[call] if hidden is None else hidden, *args, **kwargs))

    def __len__(self) -> int:
        return len(self.others)


def encoder_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Relative name and module of every encoder layer, in order; of an unknown family, the numbered modules."""
    family, absolute = family_of(model), absolute_names(model)
    if family is not None:
        return {name: model.get_submodule(absolute(name)) for name in family.layer_prefixes(model)}
    found = (re.match(r".*?\.\d+(?=\.)", name) for name, _ in relative_modules(model, nn.Linear))
    names = dict.fromkeys(match.group() for match in found if match)
    return {name: model.get_submodule(absolute(name)) for name in names}


@torch.no_grad()
def record_blocks(
    model: nn.Module, batches: Iterable[Mapping], names: Collection[str] | None = None, first_only: bool = False
) -> dict[str, BlockRecord]:
    """Run batches through the model in eval mode and keep what blocks were called with, and gave.

    Args:
        model: float or quantized; left in the mode it was in.
        batches: keyword arguments of forward; labels are left out.
        names: blocks to record; None records all.
        first_only: keep hidden states and outputs of the first of them only, and of the rest, which are not run, what
            else they were called with: enough where they are chained.
    """
    blocks = encoder_blocks(model)
    records = {name: BlockRecord() for name in blocks if names is None or name in names}
    recorder, hooks = _Recorder(), []
    for position, (name, record) in enumerate(records.items()):
        states = not (first_only and position)
        hooks.append(blocks[name].register_forward_pre_hook(recorder.before(record, states), with_kwargs=True))
        if states:
            hooks.append(blocks[name].register_forward_hook(recorder.after(record)))
    skipped = list(blocks.values())[1:] if first_only else []
    try:
        with evaluating(model), _passing_on(recorder, skipped):
            for batch in batches:
                inputs = forward_inputs(model, batch)
                recorder.mask = real_tokens(inputs)
                model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return records


class _Recorder:
    """Hooks that write into records; `mask` is of the batch that runs now, `given` what a block gave last."""

    mask: Tensor | None = None
    given: Tensor | tuple | None = None

    def before(self, record: BlockRecord, states: bool):
        def hook(block: nn.Module, args: tuple, kwargs: dict) -> None:
            hidden, rest, named = _split(args, kwargs)
            if states:
                record.hidden.append(hidden.detach())
            record.others.append((rest, named))
            record.masks.append(self.mask)

        return hook

    def after(self, record: BlockRecord):
        def hook(block: nn.Module, args: tuple, output: Tensor | tuple) -> None:
            self.given = output
            record.outputs.append(_hidden_of(output).detach())

        return hook


@contextmanager
def _passing_on(recorder: _Recorder, blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Blocks that give what the recorded block before them gave."""
    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = lambda *args, **kwargs: recorder.given
        yield
    finally:
        for block, forward in zip(blocks, before):
            if forward is None:
                del block.forward
            else:
                block.forward = forward


def are_chained(records: Sequence[BlockRecord], batches: int) -> bool:
    """Whether each block is called once per batch and reads what the block before it gave, unchanged; not so where
    layers share their weights, or something stands between them."""
    once = all(len(record) == batches for record in records)
    pairs = [(first.outputs[0], second.hidden[0]) for first, second in pairwise(records)] if once else []
    return once and all(given.shape == read.shape and torch.equal(given, read) for given, read in pairs)


def _split(args: tuple, kwargs: dict) -> tuple[Tensor, tuple, dict]:
    """Hidden states, and the other arguments."""
    if args:
        return args[0], args[1:], kwargs
    return kwargs["hidden_states"], (), {key: value for key, value in kwargs.items() if key != "hidden_states"}


def _hidden_of(output: Tensor | tuple) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
