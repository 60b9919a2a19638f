"""Training-free compression: score, allocate, quantize."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core import Assignment, Budget
from ..cost import COSTS
from ..search import ALLOCATORS, SCORERS
from .api import quantize
from .config import MPQConfig

DEFAULT_CANDIDATES = (0, 2, 3, 4, 8)
SEARCH_ROUNDS = 6


def compress(
    model: nn.Module,
    budget: str | Budget | Sequence[str | Budget] | None = None,
    calibration: Iterable | None = None,
    config: MPQConfig | None = None,
    scorer: str = "fisher",
    allocator: str = "lagrangian",
    max_drop: float | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    batch_size: int = 16,
    max_examples: int = 512,
) -> nn.Module | list[nn.Module]:
    """The best assignment under a budget without training, from a few hundred examples; `model` is left as it was.

    Args:
        model: a float model.
        budget: such as `"0.25x"`, `"12MB"` or `"2.5bits"`; a list gives one model per budget from one scoring pass.
        calibration: a `datasets.Dataset` of tokenized rows (`input_ids`, `attention_mask`, ...), or an iterable of
            batches; labels are not used. Not needed by scorers that look at weights only.
        config: everything but the assignment; `bits` are the candidates. By default 0 to 8 bits for the encoder.
        scorer, allocator: registered names.
        max_drop: instead of a budget: the smallest model whose `evaluate` is at most this much below the float model's.
        evaluate: a model's score, higher is better; for `max_drop`.
        batch_size: of the batches made from a data set.
        max_examples: of the data set that are used, from its start.

    Returns:
        A quantized model with fixed bits that can be trained on or packed; for a list of budgets, a list.

    Raises:
        BudgetError: when nothing can meet a budget; it names the smallest possible.
        ValueError: when neither a budget nor `max_drop` with `evaluate` is given, or no examples for a scorer of data.
    """
    if (budget is None) == (max_drop is None):
        raise ValueError("give either a budget, such as '0.25x', or max_drop with evaluate")
    if max_drop is not None and evaluate is None:
        raise ValueError("max_drop needs evaluate, a function from a model to a score")
    config = copy.deepcopy(config) if config is not None else MPQConfig(bits=DEFAULT_CANDIDATES)
    space = config.resolve(model)
    batches = batches_of(calibration, model, batch_size, max_examples)
    scores = SCORERS[scorer]().score(model, space, batches)
    cost = COSTS["size"](space)
    build = lambda target: _build(model, config, ALLOCATORS[allocator](space, cost, target, scores))  # noqa: E731
    if max_drop is not None:
        return _smallest_within(build, max_drop, evaluate, evaluate(model))
    if isinstance(budget, str | Budget):
        return build(Budget.parse(budget))
    return [build(Budget.parse(one)) for one in budget]


def _build(model: nn.Module, config: MPQConfig, assignment: Assignment) -> nn.Module:
    chosen = copy.deepcopy(config)
    chosen.assignment = assignment.to_dict()
    return quantize(copy.deepcopy(model), chosen)


def _smallest_within(build: Callable, max_drop: float, evaluate: Callable, reference: float) -> nn.Module:
    """Bisect the mean bits of the encoder; drops need not rise evenly, so the best model that was seen is returned."""
    low, high, best = 0.0, 8.0, build(Budget(8.0, "bits", "encoder"))
    if reference - evaluate(best) > max_drop:
        raise ValueError(f"even 8 bits drop by {reference - evaluate(best):.4f}, more than max_drop={max_drop}; "
                         "allow more, or leave activations float with MPQConfig(activation_bits=None)")  # fmt: skip
    for _ in range(SEARCH_ROUNDS):
        middle = (low + high) / 2
        candidate = build(Budget(middle, "bits", "encoder"))
        if reference - evaluate(candidate) <= max_drop:
            best, high = candidate, middle
        else:
            low = middle
    return best


def batches_of(calibration: Iterable | None, model: nn.Module, batch_size: int, max_examples: int) -> list[Mapping]:
    """Padded batches of tensors from a data set of tokenized rows; batches that are given as such are passed on."""
    if calibration is None:
        return []
    rows = [row for row, _ in zip(calibration, range(max_examples))]
    if not rows or isinstance(rows[0]["input_ids"], Tensor):
        return rows
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in rows[0]]
    padding = {"input_ids": model.config.pad_token_id or 0}
    starts = range(0, len(rows), batch_size)
    return [_padded(rows[start : start + batch_size], names, padding) for start in starts]


def _padded(rows: list[Mapping], names: list[str], padding: Mapping[str, int]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    fill = lambda row, name: [*row[name], *[padding.get(name, 0)] * (width - len(row[name]))]  # noqa: E731
    batch = {name: torch.tensor([fill(row, name) for row in rows]) for name in names}
    if "attention_mask" not in batch:
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        batch["attention_mask"] = (torch.arange(width) < lengths.unsqueeze(1)).long()
    return batch
