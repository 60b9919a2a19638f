"""Runs that each start from a fresh model: `model_init`, and the trials of `hyperparameter_search`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import enable_full_determinism, set_seed

from ...plugin import MPQConfig
from ...plugin.adapters import check_without_adapters


def check_trainable(model: nn.Module | None) -> MPQConfig:
    """The config of a model that can be trained.

    Raises:
        ValueError: it is not quantized, or packed, or has adapters.
    """
    try:
        check_without_adapters(model)
    except ValueError as error:
        raise ValueError(f"{error}. Adapters alone are trained by transformers' own Trainer") from error
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    if not isinstance(config, MPQConfig):
        raise ValueError(
            "this model is not quantized: load it with from_pretrained(..., quantization_config="
            "MPQConfig(...)), or call hf_mpq.quantize(model, MPQConfig(...)) first"
        )
    if config.storage == "packed":
        raise ValueError("a packed model cannot be trained: call hf_mpq.unpack(model) first")
    return config


def check_teacher(teacher: nn.Module | None, model: nn.Module) -> None:
    """Raise ValueError for a teacher that would be trained along."""
    if teacher is not None and {id(one) for one in teacher.parameters()} & {id(one) for one in model.parameters()}:
        raise ValueError(
            "the teacher shares parameters with the model, and would be trained along: give "
            "copy.deepcopy(...) of the float model, made before it was quantized"
        )


def in_single_precision(model: nn.Module) -> str:
    """Turn weights of half precision into float32, in place, and say which kinds there were: a step is lost in them
    where it is smaller than half of a weight's last bit."""
    kinds = {one.dtype for one in model.parameters() if one.dtype in (torch.float16, torch.bfloat16)}
    if kinds:
        nn.Module.float(model)  # transformers' own refuses quantized models
        model.config.dtype = torch.float32
    return " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))


class FreshModels:
    """Mixin of the trainer of a whole run: with `model_init`, each run starts from a model that it makes."""

    @contextmanager
    def _for_trial(self, trial: Any) -> Iterator[None]:
        """Inside, the model is a fresh one where there is `model_init`, and a trial has its settings and its folder."""
        if self.model_init is None:
            yield
            return
        folder = self.args.output_dir
        (enable_full_determinism if self.args.full_determinism else set_seed)(self.args.seed)
        model = self.call_model_init(trial)
        self._hp_search_setup(trial)
        self.args.output_dir = self._get_output_dir(trial)
        try:
            self._adopt(model)
            self._take(model)
            yield
        finally:
            self.args.output_dir = folder
