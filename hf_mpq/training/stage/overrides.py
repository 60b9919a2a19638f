"""Methods of a Trainer that a subclass of MPQTrainer overrides, or that are set on a trainer: they are called in every
stage, or refused by name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

from transformers import Trainer

CALLED = (
    "compute_loss",
    "training_step",
    "get_train_dataloader",
    "get_eval_dataloader",
    "_get_train_sampler",
    "_get_eval_sampler",
    "create_optimizer",
    "create_scheduler",
    "get_decay_parameter_names",
    "compute_loss_context_manager",
    "autocast_smart_context_manager",
    "evaluate",
    "evaluation_loop",
    "prediction_step",
    "log",
    "save_model",
    "floating_point_ops",
)
"""Methods that a stage calls where they are overridden."""
BETWEEN = (
    "train",
    "predict",
    "get_test_dataloader",
    "num_examples",
    "add_callback",
    "pop_callback",
    "remove_callback",
    "is_local_process_zero",
    "is_world_process_zero",
    "create_model_card",
    "init_hf_repo",
    "push_to_hub",
    "log_metrics",
    "metrics_format",
    "save_metrics",
    "save_state",
)
"""Methods that belong to the whole run, or are used between its stages."""
LENT = (
    "args",
    "state",
    "control",
    "optimizer",
    "lr_scheduler",
    "accelerator",
    "model_wrapped",
    "data_collator",
    "train_dataset",
    "eval_dataset",
    "callback_handler",
    "is_in_train",
    "current_gradient_accumulation_steps",
    "model_accepts_loss_kwargs",
    "label_names",
    "optimizer_cls_and_kwargs",
)
"""What an overridden method finds in `self` as the stage has it; `self.model` is the model that is trained."""
_OWN = {"training_step": "run_passes"}
"""Name of the stage's own method, where it is not that of the Trainer."""
_MISSING = object()


def overridden(trainer: Trainer, base: type) -> list[str]:
    """Names of a Trainer's methods that classes before `base` define anew, or that were set on the trainer itself.

    Raises:
        ValueError: for methods that a run in stages cannot call.
    """
    kind = type(trainer)
    above = (trainer, *kind.__mro__[: kind.__mro__.index(base)])
    names = {name for one in above for name in vars(one) if name in dir(Trainer) and name[:2] != "__"}
    refused = sorted(names - {*CALLED, *BETWEEN})
    if refused:
        raise ValueError(
            f"{kind.__name__} overrides {', '.join(refused)}, which stages do not call; what they call: "
            f"{', '.join(CALLED)}"
        )
    return sorted(names & set(CALLED))


class StageHost:
    """Mixin of the trainer of a whole run: while a stage calls one of its methods, it stands for the stage's trainer,
    and `super()` is the stage's own method."""

    _hosted: Trainer | None = None

    @contextmanager
    def _hosting(self, stage: Trainer) -> Iterator[None]:
        before = {name: vars(self).get(name, _MISSING) for name in ("_hosted", *LENT)}
        self._hosted = stage
        _lend(stage, self)
        try:
            yield
            _lend(self, stage)
        finally:
            for name, value in before.items():
                if value is _MISSING:
                    vars(self).pop(name, None)
                else:
                    setattr(self, name, value)


def _lend(giver: Trainer, taker: Trainer) -> None:
    for name in LENT:
        if name in vars(giver) and vars(taker).get(name, _MISSING) is not vars(giver)[name]:
            setattr(taker, name, vars(giver)[name])


def _or_of_the_stage(name: str) -> Callable:
    """Trainer's method, or while a stage is hosted the stage's own one."""
    plain = getattr(Trainer, name)

    @wraps(plain)
    def method(self: StageHost, *args: Any, **kwargs: Any) -> Any:
        stage = self._hosted
        if stage is None:
            return plain(self, *args, **kwargs)
        _lend(self, stage)
        found = getattr(type(stage), _OWN.get(name, name))(stage, *args, **kwargs)
        _lend(stage, self)
        return found

    return method


for _name in CALLED:
    setattr(StageHost, _name, _or_of_the_stage(_name))


def call_overrides(stage: Trainer, host: StageHost, names: list[str]) -> None:
    """Let a stage's trainer call the host's methods in place of its own."""
    for name in names:
        setattr(stage, _OWN.get(name, name), partial(_call, stage, host, name))


def _call(stage: Trainer, host: StageHost, name: str, *args: Any, **kwargs: Any) -> Any:
    with host._hosting(stage):
        return getattr(host, name)(*args, **kwargs)
