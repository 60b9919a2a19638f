"""The quantizer that transformers calls while it loads and saves."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from transformers.quantizers import HfQuantizer, register_quantizer
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from .._compat import check_transformers
from ..core import PrecisionSpace, Reduction
from ..format import FORMAT_VERSION, SIGNED_SINCE, PackedFormatError, read_metadata
from ..nn import convert, dequantize_modules, initialise
from ..nn.convert import refresh
from ..nn.packed import PackedModule
from ..nn.shapes import apply_shapes
from . import names as names
from .adapters import check_without_adapters
from .checks import (
    check_checkpoint,
    check_loaded,
    check_shapes,
    check_there,
    new_decoders,
    parameter_shapes,
    without_new_projections,
)
from .first_values import as_before, leave_packed_layers
from .folder import check_folder, is_local, local_files, metadata_of, stored_tensors
from .heads import is_latency, join_heads
from .held import HeldTensors
from .numbers import check_contents, check_gates, check_numbers, warn_dense
from .origin import remember_base
from .partial import PartialLoading, take_asked
from .precision import set_precision, take_up
from .reshape import reduction_of, take_reduction
from .resolve import check_activation, check_applied
from .saving import attach, detach
from .signed import signature
from .skeleton import build_packed
from .space import keep_space
from .summary import resolved_lines
from .written import reading

_FLOAT32_STATE = ("program", "input_quantizer", "output_quantizer", "mpq_attention")
_NEW_STATE = (
    r"\.program\.",
    r"\.live_rows$",
    r"\.input_quantizer\.",
    r"\.output_quantizer\.",
    r"\.mpq_attention\.",
    r"\.dropout\.quantizer\.",
    r"\.lower_(weight|bias)$",
    r"\.input_(scale|shift)_values$",
    r"\.low_rank_(rows|columns)$",
)


def _is_new(name: str) -> bool:
    """Whether a float checkpoint does not hold it, so that it has no value yet."""
    return any(re.search(pattern, name) for pattern in _NEW_STATE)


class MPQHfQuantizer(HfQuantizer):
    """Swaps layers on the meta skeleton before weights are loaded, and sets scales after."""

    requires_calibration = False

    def __init__(self, quantization_config, **kwargs):
        super().__init__(quantization_config, **kwargs)
        self._digests: dict[str, str] = {}
        self._verified: tuple[str, ...] = ()
        self._held: HeldTensors | None = None
        self._new_decoders: list[str] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._state_dict: dict[str, Tensor] | None = None
        self.named_alike = False
        """Whether all that will be loaded has the names of the model's own tensors."""
        self.space: PrecisionSpace | None = None
        """What may be chosen in the model; None for a packed one from a folder, until `space_of` is asked."""
        self.space_is_of: tuple | None = None
        self._bits = take_asked() if self.pre_quantized else None
        partly = self._bits is not None and self.packed
        self._partial = PartialLoading(self._bits, quantization_config) if partly else None

    def validate_environment(self, *args, **kwargs) -> None:
        """Raise ImportError when transformers is too old."""
        check_transformers()

    @property
    def packed(self) -> bool:
        """Whether the model holds codes rather than float masters."""
        return self.quantization_config.storage == "packed"

    def update_attn_implementation(self, config):
        """Called before the model is built: a local folder that is damaged is refused here, at no cost."""
        if self.pre_quantized and is_local(config):
            now = signature(config)
            files = local_files(config, now)
            if files:
                self._verify(config, files, now)
        return config

    def update_tp_plan(self, config):
        """What early versions of transformers call there."""
        return self.update_attn_implementation(config)

    def _verify(self, config, files, now: Mapping[str, str] | None = None) -> None:
        """Files and config, with its signature where that is there, against what was written with them, once."""
        if self._verified != tuple(files):
            prefixes = dict if self._partial is None else partial(self._partial.prefixes, files)
            read = check_folder(config, files, self.quantization_config.format_version, prefixes, now)
            self._held = HeldTensors(read) if self.packed and self._partial is None else None
            self._verified = tuple(files)

    def _check_source(self, config, files) -> None:
        if files:
            self._verify(config, files)
        elif self.packed:
            raise PackedFormatError("a packed model is loaded from the folder that save_pretrained wrote: give that")

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files=None, device_map=None, **kwargs
    ) -> nn.Module:
        if self.pre_quantized:
            self._check_source(model.config, checkpoint_files)
        if self._partial is not None:
            self.quantization_config = self._partial.reduced(model, checkpoint_files)
        with reading("quantization_config") if self.pre_quantized else nullcontext():
            apply_shapes(model, self.quantization_config.shapes)
            if self._reduces:
                self.quantization_config.check()
            elif self.packed:
                build_packed(model, self.quantization_config.packed, torch.get_default_dtype())
                leave_packed_layers(model)
            else:
                self._convert(model, checkpoint_files)
        if self.pre_quantized:
            self._check_files(model, checkpoint_files)
        elif not self._reduces:
            ignored = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
            model._keys_to_ignore_on_load_missing = {*ignored, *_NEW_STATE}
        self._shapes = parameter_shapes(model)
        if self._partial is not None:
            self._partial.hide(model)
        self._hold(model, device_map)
        return model

    def _hold(self, model: nn.Module, device_map) -> None:
        """Leave it to transformers to read what cannot go into the model as it was checked."""
        if self._held is not None and self.named_alike and HeldTensors.wanted(device_map):
            self._held.put(model)
        else:
            self._held = None

    def _convert(self, model: nn.Module, files) -> None:
        """Put trainable layers into the skeleton; a projection that the file lacks is a new head's and stays float."""
        config = self.quantization_config
        if not self.pre_quantized:
            config.check()
            config.origin, config.inside, config.precision = (
                {},
                "",
                {},
            )  # of another model that the same config quantized
            config.embedding_bits = config.table_bits
            remember_base(model, config)
        if not self.pre_quantized:
            check_activation(config)
        if any(map(is_latency, config.budgets)) and not self.pre_quantized:
            join_heads(config, model)
        space = config.resolve(model)
        config.resolved = resolved_lines(space)
        if not self.pre_quantized:
            check_applied(config, space)
        if self.pre_quantized and files and all(str(file).endswith(".safetensors") for file in files):
            before, space = space, without_new_projections(space, model, files)
            new = [name for name in before.weights if name not in space.weights]
            if new:  # noted, so that the model is loaded as it is saved
                config.modules_to_not_convert = [*(config.modules_to_not_convert or ()), *new]
                config.resolved = resolved_lines(space)
        kind = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)  # scales and gates stay float32 in a bfloat16 or float16 model
        self.space = space
        try:
            convert(model, space)
        finally:
            torch.set_default_dtype(kind)
        kept = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
        model._keep_in_fp32_modules_strict = {*kept, *_FLOAT32_STATE}

    @property
    def _reduces(self) -> bool:
        """Whether the float model is made smaller once its weights are there, and gets its layers only then."""
        return not self.pre_quantized and self.quantization_config.shape is not None

    def _reduce(self, model: nn.Module) -> None:
        small = reduction_of(model, Reduction.of(self.quantization_config.shape))
        if small is not None:
            take_reduction(model, small)
        self._convert(model, None)

    def _check_files(self, model: nn.Module, files) -> None:
        if not files:
            return
        self.named_alike = check_checkpoint(model, files, {} if self._partial is None else self._partial.shapes(model))
        unsigned = self.packed and self.quantization_config.format_version < SIGNED_SINCE
        self._digests = read_metadata(files) if unsigned else {}
        self._new_decoders = new_decoders(model, files)

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs) -> nn.Module:
        check_shapes(model, self._shapes)
        if self._partial is not None:
            self._partial.fill(model)
        if self._held is not None:
            self._held.settle(model)
            self._held = None
        if self.packed:
            as_before(model)
            check_there(model)
            for module in model.modules():
                if isinstance(module, PackedModule):
                    module.materialise()
            if self.quantization_config.format_version < SIGNED_SINCE:
                check_loaded(model, self._digests)
            check_contents(model)
            for name in self._new_decoders:  # transformers initialises plain layers only
                nn.init.zeros_(model.get_submodule(name).bias)
        elif self.pre_quantized:
            check_gates(model)
            refresh(model)
        else:
            check_numbers({name: p for name, p in model.named_parameters() if not _is_new(name)})
            if self._reduces:
                self._reduce(model)
            initialise(model)
            warn_dense(model)
        with reading("quantization_config.precision"):
            take_up(model, self.quantization_config)
        attach(model, self)
        keep_space(model, self.space)
        if self._bits is not None and self._partial is None:
            set_precision(model, self._bits)
        return model

    @contextmanager
    def saving(self, state_dict: dict[str, Tensor]) -> Iterator[None]:
        """While this holds, `save_pretrained` writes `state_dict`: transformers would drop the one its caller gave."""
        self._state_dict = state_dict
        try:
            yield
        finally:
            self._state_dict = None

    def get_state_dict_and_metadata(self, model: nn.Module, *args) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The state dict to write and the safetensors metadata; ValueError where a number is none.

        Both storages keep the model's names: those of the float checkpoint, which `save_pretrained` would go back to,
        may join what is packed apart.
        """
        model._weight_conversions = []
        tensors = stored_tensors(model, self._state_dict)
        model.config.quantization_config.format_version = FORMAT_VERSION
        return tensors, metadata_of(model, tensors)

    def is_serializable(self, *args, **kwargs) -> bool:
        """Always."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether something can be trained: masters here, adapters on packed layers."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Whether the quantized weights themselves can be trained."""
        return not self.packed

    @property
    def is_compileable(self) -> bool:
        """Whether `torch.compile` works on the model."""
        return True

    def _dequantize(self, model: nn.Module, dtype: torch.dtype | str | None = None) -> nn.Module:
        """`dtype` is a word once the model was saved: transformers writes it into the config so."""
        check_without_adapters(model)
        detach(model)
        return dequantize_modules(model, getattr(torch, dtype) if isinstance(dtype, str) else dtype)


if "mpq" not in AUTO_QUANTIZER_MAPPING:
    register_quantizer("mpq")(MPQHfQuantizer)
