"""`from_pretrained(folder, bits=4)`: of nested codes only the planes that serve the precision are read."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from ..core import Budget
from ..format import SIGNED_SINCE, Digests, PackedFormatError, Prefix, read_tensors
from ..nn import Family, family_of, relative_names
from .config import MPQConfig
from .held import mapping
from .packed_files import PackedFiles
from .precision import Bits

_ASKED: ContextVar[Bits | None] = ContextVar("asked_bits", default=None)
_OF_THE_HUB = (
    "cache_dir",
    "proxies",
    "local_files_only",
    "token",
    "revision",
    "subfolder",
    "trust_remote_code",
    "_commit_hash",
)


def take_asked() -> Bits | None:
    """What `bits=` was in the call of `from_pretrained` that runs; once, so that no model inside takes it too."""
    asked = _ASKED.get()
    _ASKED.set(None)
    return asked


@contextmanager
def _asking(bits: Bits) -> Iterator[None]:
    token = _ASKED.set(bits)
    try:
        yield
    finally:
        _ASKED.reset(token)


class PartialLoading:
    """What of a packed folder is read for `bits`, and how it comes into the model.

    Args:
        bits: as of `hf_mpq.set_precision`.
        config: of the folder.
    """

    def __init__(self, bits: Bits, config: MPQConfig):
        self.bits, self.config = bits, config
        self._hidden: dict[str, str] = {}  # full name in the model to that in the files

    def prefixes(self, files: Sequence[str | Path]) -> Mapping[str, Prefix]:
        """What has to be read; a budget looks at all codes before it chooses.

        Raises:
            PackedFormatError: the folder is of the first format, or its table is damaged.
            ValueError: as of `hf_mpq.set_precision`.
        """
        if self.config.format_version < SIGNED_SINCE:
            raise PackedFormatError("a folder of format 1 is loaded whole: leave out bits=, and save it again for that")
        if isinstance(self.bits, str | float | Budget):
            return {}
        self._choose(files)
        return self.files.prefixes(self.cut)

    def reduced(self, model: nn.Module, files: Sequence[str | Path]) -> MPQConfig:
        """The config of the model that will be loaded."""
        with torch.device("cpu"):  # skeletons are made on another
            self._choose(files, family_of(model))
        return self.cut.config(self.config)

    def _choose(self, files: Sequence[str | Path], family: Family | None = None) -> None:
        self.files = PackedFiles(files, self.config, family)
        self.cut = self.files.cut(self.files.choose(self.bits))

    def shapes(self, model: nn.Module) -> dict[str, tuple[int, ...]]:
        """Relative name to shape of what is left of the tensors that lose something."""
        tensors = {full: torch.empty(self.files.headers[full][1], device="meta") for full in self._cut_names()}
        relative = relative_names(model)
        return {relative(full): tuple(self.cut.of(full, one).shape) for full, one in tensors.items()}

    def hide(self, model: nn.Module) -> None:
        """Keep transformers from reading those tensors, whole, into a skeleton."""
        relative = relative_names(model)
        owners = {relative(name): name for name, _ in model.named_modules()}
        ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None)
        for full in self._cut_names():
            owner, part = self.files.places[full]
            if owner in owners:
                self._hidden[f"{owners[owner]}.{part}"] = full
                model.get_submodule(owners[owner])._non_persistent_buffers_set.add(part)
        kind = set if isinstance(ignored, set) else list  # newer transformers adds a set to it
        own = [f"{re.escape(full)}$" for full in self._cut_names()]
        model._keys_to_ignore_on_load_unexpected = kind([*(ignored or ()), *own])

    def fill(self, model: nn.Module) -> None:
        """Read what is left of them, onto the devices where transformers made room for it."""
        wanted = {full: name for name, full in self._hidden.items()}
        prefixes, digests = self.files.prefixes(self.cut), Digests.of(self.files.files)
        for full, tensor in read_tensors(self.files.files, digests, prefixes, wanted):
            owner, _, part = wanted[full].rpartition(".")
            module = model.get_submodule(owner)
            module.get_buffer(part).copy_(self.cut.of(full, tensor))
            module._non_persistent_buffers_set.discard(part)

    def _cut_names(self) -> list[str]:
        return [full for full in self.files.headers if self.cut.changes(full)]


_from_pretrained = getattr(PreTrainedModel.from_pretrained, "whole", PreTrainedModel.from_pretrained.__func__)


@functools.wraps(_from_pretrained)
def _partly(cls, pretrained_model_name_or_path, *args: Any, **kwargs: Any) -> Any:
    with mapping(kwargs.get("disable_mmap")):
        if "bits" not in kwargs:
            return _from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs)
        if not _is_ours(pretrained_model_name_or_path, kwargs):
            with _explained(pretrained_model_name_or_path, kwargs["bits"]):
                return _from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs)
        with _asking(kwargs.pop("bits")):
            return _from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs)


@contextmanager
def _explained(place: Any, bits: Any) -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        if "unexpected keyword argument 'bits'" not in str(error):
            raise
        raise TypeError(
            f"bits={bits!r} chooses among the precisions that a folder packed by hf_mpq has, and {place} is none: to "
            "quantize a float model give quantization_config=hf_mpq.MPQConfig(bits=...)"
        ) from error


def _is_ours(place: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether what is loaded is quantized by hf_mpq; all else may have a meaning of its own for `bits`."""
    config = kwargs.get("config")
    if not isinstance(config, PretrainedConfig):
        known = {name: kwargs[name] for name in _OF_THE_HUB if name in kwargs}
        try:
            config = PretrainedConfig.get_config_dict(place if config is None else config, **known)[0]
        except (OSError, ValueError):
            return False  # which the call itself will say
    described = (
        config.get("quantization_config") if isinstance(config, dict) else vars(config).get("quantization_config")
    )
    if isinstance(described, MPQConfig):
        return True
    return isinstance(described, Mapping) and described.get("quant_method") == "mpq"


_partly.whole = _from_pretrained
PreTrainedModel.from_pretrained = classmethod(_partly)
