"""The contract of every scorer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ...core import PrecisionSpace, Registry, WeightSpec
from ...nn import absolute_name
from ...nn.convert import tied_decoders
from ...weights import WeightProgram
from ...weights.compilation import run_as_written

SCORERS: Registry[type["Scorer"]] = Registry("scorer", passed=("progress",))


class Scorer(ABC):
    """Says how much each choice hurts; 0 bits (pruned) is on the same scale as every precision.

    Attributes:
        needs_data: whether `score` needs batches.
    """

    needs_data: bool = True

    @abstractmethod
    def score(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> dict[str, Tensor]:
        """Score every matrix of `space` that has a choice. The model is left as it was.

        Args:
            model: the float model that `space` was resolved for.
            batches: keyword arguments of the model's forward; labels are used where the class says so.

        Returns:
            Name to `(groups, candidates)` float64 on the CPU, lower is better, never rising with the bits. A scorer
            that can scores open inputs, too, by `input_of` the name; those that it leaves out are allocated their
            highest candidate.

        Raises:
            ValueError: when there are no examples and the scorer needs some.
        """

    def forward_passes(self, space: PrecisionSpace, batches: int) -> float:
        """About how many forward passes of one batch scoring costs, for an estimate of the time."""
        return 0.0


def open_matrices(model: nn.Module, space: PrecisionSpace) -> dict[str, tuple[nn.Module, WeightSpec]]:
    """Name to float layer and spec of every matrix with more than one candidate."""
    return {
        name: (model.get_submodule(absolute_name(model, name)), spec)
        for name, spec in space.weights.items()
        if len(spec.candidates) > 1
    }


def readers(model: nn.Module, layers: Mapping[str, tuple[nn.Module, WeightSpec]]) -> dict[str, list[nn.Module]]:
    """Name to every module that reads its weight: the layer itself, and decoders tied to a table."""
    names = {module: name for name, (module, _) in layers.items()}
    found = {name: [module] for name, (module, _) in layers.items()}
    for target, source in tied_decoders(model, (nn.Embedding,)).items():
        if model.get_submodule(source) in names:
            found[names[model.get_submodule(source)]].append(model.get_submodule(target))
    return found


@torch.no_grad()
def rounding_errors(weight: Tensor, spec: WeightSpec) -> list[Tensor]:
    """What each candidate changes in a float weight, each `(out, in)`: its rounding, and what its mask drops; pruning
    changes all of it."""
    weight = weight.detach().float()
    program = masked_program(weight, spec)
    program.calibrate(weight)
    value, keep = program.float_weight(weight), program.keep()
    rounded = (program.quantizer.candidate(value, bits) if bits else 0 * value for bits in spec.candidates)
    with run_as_written():
        return [(one if keep is None else one * keep) - weight for one in rounded]


@torch.no_grad()
def masked_program(weight: Tensor, spec: WeightSpec) -> WeightProgram:
    """What quantizes a matrix, with its mask chosen from a float weight `(out, in)`; without scales."""
    program = WeightProgram(spec).to(weight.device)
    program.initialise(weight)
    return program


def squared_errors(weight: Tensor, spec: WeightSpec) -> Tensor:
    """Squared change of each sub-group at each candidate: `(groups, candidates)` float64."""
    columns = [spec.layout.reduce(error.square(), "sum").double() for error in rounding_errors(weight, spec)]
    return torch.stack(columns, dim=1)


def never_rising(scores: Tensor) -> Tensor:
    """Raise a score that is below one at more bits to that one: more bits cannot truly hurt more.

    `(groups, candidates)`, candidates ascending; the result is on the CPU, as scores are wherever the model is.
    """
    return scores.cpu().flip(1).cummax(dim=1).values.flip(1)


def check_choice(option: str, value: str, known: tuple[str, ...]) -> str:
    """The value; raises ValueError with the known ones when it is none of them."""
    if value not in known:
        raise ValueError(f"unknown {option} {value!r}; use one of {', '.join(map(repr, known))}")
    return value


def check_count(option: str, value: int) -> int:
    """The value; raises ValueError when it is not a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{option} must be a whole number of at least 1, got {value!r}; use {option}=1 for the fewest")
    return value
