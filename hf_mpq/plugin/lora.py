"""PEFT's LoRA on packed layers: trained beside the codes, and merged without touching them.

Needs `peft`. Trainable layers are linear layers to PEFT, and take its own LoRA.
"""

import functools
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._extras import require
from ..core import read_json, to_bytes
from ..format import PackedFormatError, read_headers, verify
from ..nn import PackedLinear, relative_name
from ..nn.packed import PackedModule
from .skeleton import packed_table

with require("peft", "LoRA on packed layers"):
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTuner
    from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

_PLAIN_STARTS = (True, False, "gaussian", "orthogonal")


def for_packed(config: LoraConfig) -> LoraConfig:
    """The config, in place, so that it also attaches to packed layers. Once this module is imported, PEFT does so by
    itself for every model that has some.

    Raises:
        ValueError: for variants of LoRA that change or rescale the weight itself, or train its bias.
    """
    if config.bias != "none":
        raise ValueError(f"packed biases cannot be trained: leave bias={config.bias!r} off")
    if config.use_dora or config.lora_bias or config.init_lora_weights not in _PLAIN_STARTS:
        raise ValueError(
            "packed weights cannot be changed, so LoRA on them is the plain one: leave use_dora, "
            "lora_bias and an init_lora_weights that reads the weight off"
        )
    config._register_custom_module({PackedLinear: PackedLora})
    return config


def load_adapter(model: nn.Module, folder: str | Path) -> PeftModel:
    """A saved adapter on a model: `PeftModel.from_pretrained`, with what is in the folder looked at.

    Args:
        model: packed, trainable or float, as the adapter was trained on.
        folder: that `model.save_pretrained` of the adapted model wrote.

    Raises:
        FileNotFoundError: a file is not there.
        PackedFormatError: a file is damaged, holds NaN or infinity, or is an adapter of another model.
    """
    folder = Path(folder)
    weights = folder / SAFETENSORS_WEIGHTS_NAME
    if not weights.exists():
        raise FileNotFoundError(f"{weights} is not there: copy the adapter again")
    verify([weights], signed=False)
    try:
        read_json(folder / CONFIG_NAME, "copy the adapter again")
        adapted = PeftModel.from_pretrained(model, folder)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise PackedFormatError(
            f"the adapter in {folder} does not load ({said}): copy it again, and give the model that it was trained on"
        ) from error
    different = set(get_peft_model_state_dict(adapted)) ^ set(read_headers([weights]))
    if different:
        raise PackedFormatError(
            f"{weights} is another model's, or damaged: {len(different)} tensors are not in both, "
            f"first {sorted(different)[0]}; copy the adapter again"
        )
    return adapted


def _attached(model: nn.Module, config: PeftConfig) -> None:
    """Make a config fit a model with packed layers.

    Raises:
        ValueError: it is no LoRA, or asks for what packed layers cannot do.
    """
    if not isinstance(config, LoraConfig):
        raise ValueError(
            f"packed layers take LoRA only, not {config.peft_type.value}: give a LoraConfig, or make the "
            "model trainable with hf_mpq.unpack(model)"
        )
    for_packed(config)
    if config.target_modules == "all-linear":
        config.target_modules = _linear_names(model)
    for name, module in model.named_modules():
        named = any(name == word or name.endswith(f".{word}") for word in config.modules_to_save or ())
        if named and not any(parameter.numel() for parameter in module.parameters()):
            raise ValueError(
                f"modules_to_save names {name}, whose weights are packed and cannot be trained: leave it "
                "out, or quantize with it in modules_to_not_convert"
            )


def _linear_names(model: nn.Module) -> set[str]:
    """What "all-linear" means: every linear layer, packed or not, but for those at the top, which are a head's."""
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, PackedLinear) or (isinstance(module, nn.Linear) and "." in name)
    }


def _is_packed(model: nn.Module) -> bool:
    return any(isinstance(module, PackedModule) for module in model.modules())


_inject_adapter = getattr(BaseTuner.inject_adapter, "unasked", BaseTuner.inject_adapter)
_add_adapter = getattr(PeftModel.add_adapter, "unasked", PeftModel.add_adapter)


@functools.wraps(_inject_adapter)
def _inject(self: BaseTuner, model: nn.Module, adapter_name: str, *args: Any, **options: Any) -> None:
    if _is_packed(model):
        _attached(model, self.peft_config[adapter_name])
    _inject_adapter(self, model, adapter_name, *args, **options)


@functools.wraps(_add_adapter)
def _add(self: PeftModel, adapter_name: str, peft_config: PeftConfig, *args: Any, **options: Any) -> None:
    if peft_config.is_prompt_learning and _is_packed(self):
        raise ValueError(
            "prompts cannot be learned before packed tables: use LoRA, or make the model trainable with "
            "hf_mpq.unpack(model)"
        )
    _add_adapter(self, adapter_name, peft_config, *args, **options)


_inject.unasked, _add.unasked = _inject_adapter, _add_adapter
BaseTuner.inject_adapter, PeftModel.add_adapter = _inject, _add


class PackedLora(nn.Module, LoraLayer):
    """LoRA (Hu et al., 2022) beside a packed layer: `y = W_hat x_hat + s B A x_hat`.

    A and B see the input as the codes do, shifted, scaled and quantized, and leave pruned rows and dead columns alone,
    so that `merge_adapters` gives the same function.

    Args:
        base_layer: packed.
        adapter_name, config, r, lora_alpha: as PEFT gives them.
    """

    def __init__(
        self,
        base_layer: PackedLinear,
        adapter_name: str,
        config: LoraConfig,
        r: int = 0,
        lora_alpha: int = 1,
        **options: Any,
    ):
        super().__init__()
        LoraLayer.__init__(self, base_layer, **options)
        packed = self.get_base_layer()
        if packed.output_quantizer is not None or packed.compacted:
            raise ValueError(
                "LoRA needs a packed layer as it was loaded, whose output is not quantized: leave "
                "attention_bits unset, and add adapters before hf_mpq.prepare"
            )
        self.register_buffer("rows", packed.stored_rows(), persistent=False)
        self.register_buffer("columns", packed.stored_channels(), persistent=False)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **options)

    def _get_in_out_features(self, module: PackedLinear) -> tuple[int, int]:
        return module.in_features, module.out_features

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """With `adapter_names` each row of the batch has its own adapter, or `"__base__"` none."""
        self._check_forward_args(x, *args, adapter_names=adapter_names, **kwargs)
        packed, result = self.get_base_layer(), self.base_layer(x)
        if self.disable_adapters:
            return result
        seen = packed.normalised(x)
        seen = seen if packed.input_quantizer is None else packed.input_quantizer(seen)
        if adapter_names is None:
            return sum((self._added(name, seen).to(result.dtype) for name in self._chosen()), result)
        for name in sorted({*adapter_names} & {*self.lora_A}):
            rows = torch.tensor([place for place, one in enumerate(adapter_names) if one == name], device=x.device)
            result = result.index_add(0, rows, self._added(name, seen[rows]).to(result.dtype))
        return result

    def _added(self, name: str, seen: Tensor) -> Tensor:
        """What an adapter adds to the output, given the input as the codes see it."""
        up, down = self._factors(name)
        seen = self.lora_dropout[name](self._cast_input_dtype(seen, down.dtype))
        return F.linear(F.linear(seen, down), up)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What an adapter adds to the weight, `(out, in)`."""
        up, down = self._factors(adapter)
        return up @ down

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Always a ValueError: codes cannot take up a correction without being rounded again."""
        raise ValueError(
            "an adapter cannot be merged into packed codes without rounding them again. To keep the function, call "
            "hf_mpq.plugin.lora.merge_adapters(model), which stores it as the layers' low-rank correction; "
            "for plain float layers call model.dequantize() on the packed model before the adapter is loaded"
        )

    def unmerge(self) -> None:
        """Always a ValueError: nothing is ever merged."""
        raise ValueError("nothing is merged: adapters of packed layers stay beside them")

    @torch.no_grad()
    def corrected(self) -> PackedLinear:
        """A packed layer with the active adapters as its low-rank correction, after the one that it has."""
        packed, pairs = self.get_base_layer(), [self._factors(name) for name in self._chosen()]
        if not pairs:
            return packed
        own = packed.factors()
        rows = torch.cat(([] if own is None else [own[0]]) + [_even(*pair)[0] for pair in pairs], 1)
        columns = torch.cat(([] if own is None else [own[1]]) + [_even(*pair)[1] for pair in pairs], 0)
        stored = packed.stored.with_changes(rank=rows.shape[1])
        layer = PackedLinear(stored, packed.compute_dtype, packed.device, packed.input_quantizer)
        layer.keep_of, kind = packed.keep_of, getattr(torch, stored.float_dtype)
        new = {"low_rank_rows": rows[self.rows], "low_rank_columns": columns[:, self.columns]}
        for name in stored.buffers():
            octets = to_bytes(new[name].float(), kind) if name in new else packed.get_buffer(name)
            layer.get_buffer(name).copy_(octets)
        return layer.train(packed.training)

    def _chosen(self) -> list[str]:
        return [name for name in self.active_adapters if name in self.lora_A]

    def _factors(self, name: str) -> tuple[Tensor, Tensor]:
        """Scaled B `(out, rank)` and A `(rank, in)`, zero in pruned rows and dead columns."""
        up, down = self.lora_B[name].weight, self.lora_A[name].weight
        return up * self.rows.unsqueeze(1) * self.scaling[name], down * self.columns


def _even(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with each column and its row equally long, which float16 stores best."""
    balance = (down.norm(dim=1) / up.norm(dim=0).clamp(min=1e-12)).clamp(min=1e-6, max=1e6).sqrt()
    return up * balance, down / balance.unsqueeze(1)


def merge_adapters(model: PeftModel) -> nn.Module:
    """Take the active adapters into the model, which needs no `peft` from then on.

    On packed layers they become the stored low-rank correction: the function is the same to the rounding of the factors
    (float16), the file grows by them, and `hf_mpq.pack`'s format holds it. On trainable layers they are added to the
    float masters, which are then rounded as ever; on float layers to the weights.

    Returns:
        The model inside, packed or trainable as it was.
    """
    inside = model.get_base_model()
    merged = {name: layer for name, layer in inside.named_modules() if isinstance(layer, PackedLora)}
    for name, layer in merged.items():
        inside.set_submodule(name, layer.corrected())
    plain = model.merge_and_unload()
    config = getattr(plain.config, "quantization_config", None)
    if merged:
        config.packed = packed_table(plain)
        for name in merged:
            own, rank = relative_name(plain, name), plain.get_submodule(name).stored.rank
            config.rules = {**config.rules, **({f"^{re.escape(own)}$": {"low_rank": rank}} if rank else {})}
    return plain
