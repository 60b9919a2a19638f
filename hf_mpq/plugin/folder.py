"""The files of a saved model: what goes into them, and whether they are still that, asked before anything is built."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .._extras import require
from ..format import (
    SIGNED_SINCE,
    PackedFormatError,
    Prefix,
    digests_to_metadata,
    planes_to_metadata,
    read_headers,
    read_signature,
    verify,
)
from ..nn.packed import PackedMatrix
from .numbers import check_numbers
from .signed import check_config, is_written_in, signature


def stored_tensors(model: nn.Module, given: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Name to tensor of everything that `save_pretrained` will write, ties once.

    Args:
        given: the state dict to write; None means the model's own.

    Raises:
        ValueError: when a tensor holds NaN or infinity; it is named.
    """
    state = dict(model.state_dict() if given is None else given)
    if any(tensor.is_meta for tensor in state.values()):
        require("train", "a model that is partly on the meta device")
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        state = dict(get_state_dict_offloaded_model(model))
    for target, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        if target in state and source in state and state[target].data_ptr() == state[source].data_ptr():
            del state[target]
    for name in getattr(model, "_keys_to_ignore_on_save", None) or ():
        state.pop(name, None)
    check_numbers(state)
    return state


def metadata_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Safetensors metadata: a digest of every tensor and of every plane of nested codes, and what the config says."""
    planes = {
        f"{name}.codes": module.nested[-1]
        for name, module in model.named_modules()
        if isinstance(module, PackedMatrix) and module.nested
    }
    return digests_to_metadata(tensors, signature(model.config)) | planes_to_metadata(tensors, planes)


def is_local(config: PretrainedConfig) -> bool:
    """Whether a config names a folder of this machine."""
    return (Path(config._name_or_path or "?") / CONFIG_NAME).is_file()


def local_files(config: PretrainedConfig, now: Mapping[str, str]) -> list[str]:
    """The safetensors files that a config from a local folder lies beside; none where that cannot be told: a variant or
    a folder in this one may be what is asked for.

    Args:
        now: the config's signature.
    """
    folder = Path(config._name_or_path)
    if any(folder.glob("model.*.safetensors")) or not is_written_in(config, now, folder / CONFIG_NAME):
        return []
    return weight_files(folder)


def weight_files(folder: Path) -> list[str]:
    """The safetensors files of the model in a folder; none where there are none."""
    if (folder / SAFE_WEIGHTS_NAME).exists():
        return [str(folder / SAFE_WEIGHTS_NAME)]
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    return [str(folder / name) for name in _shards(index)] if index.is_file() else []


def _shards(index: Path) -> list[str]:
    """Names of the shards; PackedFormatError when the index is damaged, or names files of other folders."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PackedFormatError(f"{index.name} is damaged: copy or download the folder again") from error
    if any(Path(name).name != name for name in names):
        raise PackedFormatError(f"{index.name} names a file outside its folder: download the folder again")
    return names


def check_folder(
    config: PretrainedConfig,
    files: Sequence[str | Path],
    version: int,
    prefixes: Callable[[], Mapping[str, Prefix]] = dict,
    now: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """Compare safetensors files and the config beside them with what was written when they were saved.

    Args:
        config: with what the user passed.
        version: of the format that config.json names; before `SIGNED_SINCE` only numbers and counts can be looked at.
        prefixes: gives the planes that will be loaded, where not all are; asked once the config is known to be right.
        now: the config's signature, where that is known.

    Returns:
        Name to what was read of each tensor.

    Raises:
        PackedFormatError: for whatever differs.
    """
    if any(not str(file).endswith(".safetensors") for file in files):
        raise PackedFormatError("quantized checkpoints are safetensors files; this one is not: save it again")
    signed = read_signature(files)
    if signed:
        check_config(config, signature(config) if now is None else now, signed, Path(files[0]).parent / "config.json")
    _check_depth(config, len(read_headers(files)))
    tensors = verify(files, version >= SIGNED_SINCE or bool(signed), prefixes())
    if version >= SIGNED_SINCE and not signed:
        raise PackedFormatError(
            "the file does not say which config it was saved with: it was rewritten by another "
            "tool; save it again with hf_mpq"
        )
    return tensors


def _check_depth(config: PretrainedConfig, tensors: int) -> None:
    """Every layer has some tensor, or is one of a dozen that share theirs: more would be built for hours."""
    layers = getattr(config, "num_hidden_layers", 0)
    if layers > max(tensors, 100):
        raise PackedFormatError(
            f"num_hidden_layers in config.json is {layers}, the file holds {tensors} tensors: copy "
            "or download the folder again"
        )
