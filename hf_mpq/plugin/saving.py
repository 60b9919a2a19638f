"""`save_pretrained` and `push_to_hub` of quantized models: a folder has the old one or the new one, whole."""

import copy
import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from torch import nn
from transformers.quantizers import HfQuantizer

from ..format import model_folder
from ..nn import body_of
from ..nn.naming import part_of


def attach(model: nn.Module, quantizer: HfQuantizer, config: Any = None) -> None:
    """Everything that `from_pretrained` sets on a quantized model, and its ways of saving and pushing; also on the
    encoder inside, which can be saved alone.

    Args:
        config: what the quantizer has from now on; None leaves it its own.
    """
    quantizer.quantization_config = quantizer.quantization_config if config is None else config
    if sys.modules.get("peft"):  # which then knows packed layers
        import_module("hf_mpq.plugin.lora")
    model.config.quantization_config = quantizer.quantization_config
    alone = _of_part(quantizer)
    for part in {model, part_of(model), body_of(model)}:
        own = quantizer if part.config is model.config else alone
        part.hf_quantizer, part.is_quantized, part.quantization_method = own, True, "mpq"
        part.config.quantization_config, part.config._is_quantized = own.quantization_config, True
        part.save_pretrained = partial(save_model, part)
        part.push_to_hub = partial(push_model, part)


def _of_part(quantizer: HfQuantizer) -> HfQuantizer:
    """The quantizer of a model that was quantized alone: as that of the model around it, which says where it is."""
    config = copy.copy(quantizer.quantization_config)
    config.inside = ""
    return type(quantizer)(config, pre_quantized=quantizer.pre_quantized)


def own_config(model: nn.Module) -> None:
    """Give a model and its parts a config that no other model shares: one made from the same config is not quantized
    along."""
    old: dict[int, Any] = {}
    copy.deepcopy(model.config, old)
    for module in model.modules():
        config = vars(module).get("config")
        if id(config) in old:
            module.config = old[id(config)]


def detach(model: nn.Module) -> None:
    """Let a model that is float again save and push as its class does, under the names that transformers gives."""
    for part in {model, part_of(model), body_of(model)}:
        for name in ("save_pretrained", "push_to_hub", "_weight_conversions", "hf_quantizer"):
            part.__dict__.pop(name, None)
        part.is_quantized, part.quantization_method = False, None


PUSH = "hf_mpq.hub:push_model"
"""What pushes; the room above is imported when somebody pushes."""


def push_model(model: nn.Module, repo_id: str, **options: Any) -> Any:
    """`model.push_to_hub` of a quantized model; see `hf_mpq.hub.push_model`."""
    return resolve_name(PUSH)(model, repo_id, **options)


def save_model(
    model: nn.Module,
    save_directory: str | os.PathLike,
    is_main_process: bool = True,
    *args: Any,
    push_to_hub: bool = False,
    **options: Any,
) -> None:
    """`model.save_pretrained` of a quantized model: as that of transformers, but all of it or nothing.

    Args:
        save_directory: folder; other files in it stay.
        is_main_process, args, options: as in `PreTrainedModel.save_pretrained`.
        push_to_hub: push too, with a card; `options` may have those of `model.push_to_hub`, and `repo_id`, which is the
            folder's name by default.

    Raises:
        OSError: it cannot be written; the folder is then as it was.
        ValueError: only a part of it was packed, or it cannot be told how some part would be found again.
    """
    save = partial(type(model).save_pretrained, model)
    if not is_main_process or options.get("distributed_checkpoint"):  # which write nothing, or each a part
        save(save_directory, is_main_process, *args, push_to_hub=push_to_hub, **options)
        return
    pushing = {name: options.pop(name) for name in _PUSHING if name in options}
    with model_folder(save_directory) as folder:
        save(folder, True, *args, **options)
    if push_to_hub:
        push_model(model, pushing.pop("repo_id", None) or Path(save_directory).resolve().name, **pushing)


_PUSHING = ("repo_id", "commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")
