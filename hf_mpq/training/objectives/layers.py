"""Which layer of the teacher teaches which layer of the student."""

from collections.abc import Mapping

from torch import nn

from ...nn import body_of, encoder_blocks
from ...nn.families import family_of
from .base import Signals

Pairs = list[tuple[int, int]]


def layer_count(model: nn.Module) -> int:
    """Encoder layers of one forward pass; a shared layer counts each time it is called."""
    family, blocks = family_of(model), len(encoder_blocks(model))
    if family is None or family.shared_layers is None:
        return blocks
    config = body_of(model).config
    return config.num_hidden_layers * blocks // getattr(config, family.shared_layers)


def layer_pairs(student: nn.Module, teacher: nn.Module, first: int, layers: Mapping[int, int] | None = None) -> Pairs:
    """Layers of the student, each with its layer of the teacher; numbered from 1, 0 is what the first layer reads.

    Args:
        student, teacher: the models.
        first: lowest number that there is: 0 where the embeddings' output takes part, else 1.
        layers: student's number to teacher's; None maps layer i of S uniformly to layer round(i T / S) of T.

    Raises:
        ValueError: when `layers` is empty or names a layer that a model does not have.
    """
    counts = {"student": layer_count(student), "teacher": layer_count(teacher)}
    if layers is None:
        return [(i, uniform_layer(i, *counts.values())) for i in range(first, counts["student"] + 1)]
    pairs = [(int(ours), int(theirs)) for ours, theirs in layers.items()]
    if not pairs:
        raise ValueError("layers={} maps no layer; leave it out to map all of them uniformly")
    for which, numbers in zip(counts, zip(*pairs)):
        check_layers(which, numbers, first, counts[which])
    return pairs


def pairs_with(teacher: Signals, pairs: Pairs) -> Pairs:
    """The pairs for what teaches a pass: layers of the same place where that is an earlier pass of the student."""
    return [(ours, ours) for ours, _ in pairs] if teacher.own else pairs


def pairs_of_part(student_layers: int, part_layers: int, teacher: Signals, pairs: Pairs) -> Pairs:
    """The pairs of a sub-net with fewer layers than the student: each is taught by what teaches the student's layer at
    its relative depth, where there is one."""
    known = dict(pairs_with(teacher, pairs))
    places = ((layer, uniform_layer(layer, part_layers, student_layers)) for layer in range(part_layers + 1))
    return [(layer, known[place]) for layer, place in places if place in known]


def uniform_layer(layer: int, student_layers: int, teacher_layers: int) -> int:
    """The teacher's layer at the same relative depth; only 0 maps to 0."""
    return max(round(layer * teacher_layers / student_layers), 1) if layer else 0


def check_layers(which: str, numbers: tuple[int, ...], first: int, last: int) -> None:
    """Raise ValueError for a number outside of first to last."""
    wrong = [number for number in numbers if not first <= number <= last]
    if wrong:
        raise ValueError(
            f"the {which} has no layers {wrong}: name layers from {first} to {last}"
            + (" (0 is the embeddings' output)" if first == 0 else "")
        )
