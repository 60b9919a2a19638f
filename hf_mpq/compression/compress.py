"""Training-free compression in one call."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any

from torch import nn

from ..core import METHODS, Budget, BudgetError, Budgets, Part, Reduction, Written
from ..nn.batches import batches_of
from ..nn.pooling import check_pooling
from ..nn.running import differentiable, outside_inference_mode
from ..plugin.config import MPQConfig
from ..plugin.config_checks import checked_reduction
from ..plugin.guard import check_is_config, check_is_model
from ..plugin.nested_budget import check_serves_one
from ..plugin.reshape import reduction_of
from ..weights import QUANTIZERS
from .choices import (
    DEFAULT,
    DEFAULT_CANDIDATES,
    check_alike,
    check_target,
    choice_of,
    config_for,
    is_several,
    wanted_budgets,
)
from .engine import TrainingFree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEARCH_ROUNDS = 6
Given = str | float | Budget | tuple[str | float | Budget, ...]
"""What limits one model."""


@outside_inference_mode
def compress(
    model: nn.Module,
    budget: Given | Sequence[Given] | None = None,
    calibration: Iterable | None = None,
    config: MPQConfig | None = None,
    *,
    method: str | None = None,
    shape: str | Mapping[str, Any] | None = None,
    scorer: Written | None = None,
    allocator: Written | None = None,
    rounding: Written | None = None,
    outliers: Written | None = None,
    bias_correction: bool | None = None,
    max_drop: float | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    pooling: str | None = None,
    batch_size: int = 16,
    max_examples: int | None = None,
    progress: bool = True,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> nn.Module | list[nn.Module]:
    """The best assignment under a budget without training, from a few hundred examples; `model` is left as it was.

    Args:
        model: a float model.
        budget: such as `"25%"` (or `"0.25x"`, or 0.25), `"12MB"` or `"2.5bits"`. Several that one model meets at once
            are a tuple, or `"encoder:20MiB + activations:2500kB"`; a list gives one model for each of its entries, from
            one scoring pass. By default the config's, all for one model; not needed where the config fixes all bits.
        calibration: a `datasets.Dataset` of tokenized rows (`input_ids`, `attention_mask`, ...), any iterable of such
            rows or of batches, what a tokenizer returned, or texts (or pairs) with `tokenizer`; labels are not needed.
            Scorers and rounding that look at weights only do without.
        config: everything but the assignment; `bits` are the candidates, 0 among them prunes. By default 2, 3, 4 or 8
            bits for the encoder; `embedding_bits="auto"` opens the word table to 2 to 8 bits where a budget counts it.
        method: a published system, which chooses everything that is not given; the same as `MPQConfig(method=...)`.
        shape: what the float model is reduced to first, `"layers:4"` for instance; the same as `MPQConfig(shape=...)`.
        scorer, allocator, rounding: parts: a registered name, `{"name": ..., option: value}` or `Part(...)`. By default
            `"fisher"`, `"lagrangian"` and `"autoround"`; `"nearest"` without calibration examples, or where the
            quantizer reads its scales off the weights.
        outliers: part, a rule against outliers of activations: `"gamma"`, `"os+"` or `"none"`; by default `"os+"` where
            activations go below 8 bits, else none.
        bias_correction: after rounding, shift biases so that the mean outputs of each layer are those of the float
            model; not by default, because it gains nothing after AutoRound. It goes well with `"gptq"`.
        max_drop: instead of a budget: the smallest model whose `evaluate` is at most this much below the float model's.
        evaluate: a model's score, higher is better; for `max_drop`, and for allocators that measure.
        pooling: of a model without a head that makes sentence embeddings: `"mean"`, `"cls"` or `"last"`, and its scores
            are about the cosine distance from the float embeddings; None: about the hidden states of all tokens.
        batch_size: of the batches made from a data set.
        max_examples: rows that are used, from the start, in batches or not; None: 512, of long ones fewer, as many as
            have 16,384 tokens, but at least 256.
        progress: print how long it will take and what would be quicker, and show progress, on stderr.
        tokenizer: of the texts in `calibration`.

    Returns:
        A quantized model with fixed bits that can be trained on or packed; for a list of budgets, a list.

    Raises:
        BudgetError: when nothing can meet a budget; it names the smallest possible.
        ValueError: when neither a budget nor `max_drop` with `evaluate` is given though something is left to choose,
            there are no examples where some are needed, or none that this model can read, a name or an option is
            unknown, budgets in ms stand beside others without a config, or the model is quantized already.
    """
    check_is_model(model, "compress")
    if getattr(model, "is_quantized", False):
        raise ValueError("this model is quantized already; compress starts from the float model")
    if isinstance(budget, MPQConfig):
        raise TypeError("the second argument is the budget, such as '2.5bits'; give a config by name: config=...")
    if config is not None:
        check_is_config(config)
    check_target(budget, max_drop, evaluate)
    _check_counts(batch_size=batch_size, **({} if max_examples is None else {"max_examples": max_examples}))
    model, budgets = differentiable(model), wanted_budgets(budget)
    if budget is None and max_drop is None and config is not None and config.budget is not None:
        budgets = [config.budgets]
    method = method if method is None else METHODS.name_of(method)
    own = method if config is None or config.method is None else config.method
    choose = partial(
        choice_of,
        method=own,
        scorer=scorer,
        allocator=allocator,
        rounding=rounding,
        outliers=outliers,
        bias_correction=bias_correction,
    )
    wanted = None if shape is None else checked_reduction(shape).to_dict()
    if wanted is not None and config is not None and config.shape not in (None, wanted):
        raise ValueError(f"shape={shape!r} and a config of shape {config.shape}; leave out one of them")
    choose(DEFAULT)  # what is misspelt is said at once
    pooling = pooling if pooling is None else check_pooling(pooling)
    if config is None and method is None:
        check_alike(budgets)
    config = config_for(config, method, budgets if max_drop is None else [(Budget(1.0, "ratio"),)], model)
    batches = batches_of(calibration, model, batch_size, max_examples, tokenizer=tokenizer)
    if wanted is not None:
        config = copy.deepcopy(config)
        config.shape = wanted
    whole, model = model, _reduced(model, config, batches)
    default = DEFAULT if batches else replace(DEFAULT, rounding="nearest")
    if not QUANTIZERS[config.weight_quantizer].keeps_scales:
        default = replace(default, rounding="nearest")
    engine = TrainingFree(model, config, choose(default), batches, evaluate, progress, pooling, whole=whole)
    _check_needs(engine, budget is not None or max_drop is not None, bool(budgets) or max_drop is not None)
    for one in budgets:
        engine.check_budgets(one)
    tried = 0 if max_drop is None else 1 + SEARCH_ROUNDS
    engine.announce(tried or max(len(budgets), 1), tried)
    if max_drop is not None:
        result = _smallest_within(engine, max_drop)
    elif not engine.open:
        result = engine.build()
    else:
        models = [_built(engine, one) for one in budgets]
        result = models if is_several(budget) else models[0]
    engine.summarise()
    return result


def _reduced(model: nn.Module, config: MPQConfig, batches: Sequence[Mapping]) -> nn.Module:
    """The float model that is compressed: with a shape in the config a smaller one."""
    small = None if config.shape is None else reduction_of(model, Reduction.of(config.shape), batches)
    return model if small is None else small


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{name} must be a whole number from 1, got {count!r}")


def _built(engine: TrainingFree, budgets: Budgets) -> nn.Module:
    """The model for some budgets, which it says how far it uses."""
    assignment = engine.assignment(budgets)
    engine.tell(budgets, assignment)
    return engine.build(assignment)


def _check_needs(engine: TrainingFree, asked: bool, known: bool) -> None:
    """Raise ValueError where a target, asked for here or known from the config too, does not go with what is open, or
    examples are needed and there are none."""
    if engine.open and not known:
        raise ValueError(
            "give either a budget, such as '0.25x', or max_drop with evaluate; or fix the bits, for "
            "example MPQConfig(bits=4)"
        )
    if known:
        check_serves_one(engine.config, engine.open)
    if not engine.open and asked:
        raise ValueError(
            "the config fixes all bits, so there is nothing to choose for a budget: give candidates, for "
            f"example MPQConfig(bits={DEFAULT_CANDIDATES})"
        )
    needs = [
        name
        for name, part, used in (
            (engine.choice.scorer, engine.scorer, engine.uses_scores),
            (engine.choice.rounding, engine.rounder, True),
        )
        if used and part.needs_data
    ]
    needs += ["bias_correction"] if engine.choice.bias_correction else []
    needs += [engine.choice.outliers.name] if engine.choice.outliers not in (None, Part("none")) else []
    if needs and not engine.batches:
        named = " and ".join(map(repr, needs))
        raise ValueError(
            f"no calibration examples were given, and {named} {'needs' if len(needs) == 1 else 'need'} them; a few "
            "hundred of the task's inputs are enough"
        )


def _smallest_within(engine: TrainingFree, max_drop: float) -> nn.Module:
    """Bisect the bytes; drops need not rise evenly, so the smallest good model that was seen is returned."""
    low, high = 0.0, engine.cost.of(engine.everywhere())
    best = engine.build(engine.everywhere())
    drop = engine.reference() - engine.evaluate(best)
    if drop > max_drop:
        raise ValueError(
            f"even the highest precisions drop by {drop:.4f}, more than max_drop={max_drop}; allow more, "
            "or leave activations float with MPQConfig(activation_bits=None)"
        )
    for _ in range(SEARCH_ROUNDS):
        middle = (low + high) / 2
        candidate = _built_or_none(engine, (Budget(middle, "bytes"),))
        if candidate is not None and engine.reference() - engine.evaluate(candidate) <= max_drop:
            best, high = candidate, middle
        else:
            low = middle
    return best


def _built_or_none(engine: TrainingFree, budgets: Budgets) -> nn.Module | None:
    """None where nothing can meet the budgets."""
    try:
        return engine.build(engine.assignment(budgets))
    except BudgetError:
        return None
