"""`extract`: a folder with only some of the bit planes of another, made of files, without a model."""

import json
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME

from ..core import read_json
from ..format import (
    SIGNED_SINCE,
    Digests,
    PackedFormatError,
    Prefix,
    check_finished,
    digests_to_metadata,
    model_folder,
    planes_to_metadata,
    read_signature,
    read_tensors,
    refuse,
)
from ..nn.families import FAMILIES
from .config import MPQConfig
from .cut import Cut
from .folder import weight_files
from .packed_files import PackedFiles
from .precision import Bits
from .signed import check_quantization, signed_anew

MODULES = "modules.json"
"""Of sentence-transformers: where the encoder is, and what else belongs to the folder."""
LEFT = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "*.bin.index.json",
    "*.pt",
    "*.pth",
    "*.onnx",
    "*.onnx.data",
    "*.gguf",
    "*.pte",
    "*.h5",
    "*.msgpack",
    "openvino_*",
    "README.md",
    "bits.png",
    ".*",
)
"""What is not copied beside the model: other weights, and the card, which tells of all planes."""


def extract(folder: str | Path, bits: Bits, out: str | Path) -> Path:
    """Write a packed folder that holds, of a nested model, only the planes that are asked for.

    What is left out cannot come back: the new folder serves the precisions up to `bits`, and may be extracted further
    down. It gives what `set_precision(model, bits)` gives on the whole, bit for bit, and is loaded like any other.
    Files of tokenizers, configurations and code are copied; the card is not, `push` writes another.

    Only what is kept is read (a budget looks at all codes to choose), a file at a time; no model is made.

    Args:
        folder: of a packed model, made by `save_pretrained` or `trainer.save_packed`.
        bits: one precision for all nested matrices, precisions by pattern, or a budget; see `set_precision`. Matrices
            that no pattern finds keep all that they have. Normalisation layers keep the sets of parameters up to the
            precision that they would use.
        out: folder; made where it is not there. A model in it is replaced, all of it or nothing; other files stay.

    Returns:
        `out`.

    Raises:
        ValueError: the model is not nested, some precision is not stored, or `out` is the folder itself.
        PackedFormatError: what is read is damaged or was changed.
        OSError: there is no such folder, or nothing can be written.
    """
    folder, out = Path(folder), Path(out)
    place = _encoder_of(folder)
    content, config = _described(place)
    if out.resolve() in (folder.resolve(), place.resolve()):
        raise ValueError(f"{out} is the folder that is read, whose other planes would be lost: give another one")
    files = weight_files(place)
    if not files:
        raise PackedFormatError(f"{place} has no model.safetensors: copy or download the folder again")
    signed = read_signature(files)
    _check_signed(config, content, signed)
    packed = PackedFiles(files, config, FAMILIES.get(content.get("model_type")))
    cut = packed.cut(packed.choose(bits))
    found = cut.config(config)
    with model_folder(out) as new:
        _copy_others(folder, place, new)
        inside = new / place.relative_to(folder)
        _write_weights(packed, cut, signed_anew(signed, found), inside)
        content["quantization_config"] = found.to_dict()
        (inside / CONFIG_NAME).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return out


def _encoder_of(folder: Path) -> Path:
    """The folder itself, or the one in it where sentence-transformers keeps the encoder apart."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}: give one that save_pretrained wrote, or what "
            "huggingface_hub.snapshot_download gives for a name on the Hub"
        )
    if (folder / CONFIG_NAME).is_file() or not (folder / MODULES).is_file():
        return folder
    return folder / next(iter(_modules(folder)), "")


def _modules(folder: Path) -> list[str]:
    """Names of the folders of the modules of sentence-transformers, the encoder's first; none that leads elsewhere."""
    if not (folder / MODULES).is_file():
        return []
    try:
        paths = [one["path"] for one in json.loads((folder / MODULES).read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / MODULES} is damaged: copy or download the folder again") from error
    if any(Path(path).is_absolute() or ".." in Path(path).parts for path in paths):
        raise ValueError(f"{folder / MODULES} names a place outside its folder: download the folder again")
    return paths


def _described(place: Path) -> tuple[dict[str, Any], MPQConfig]:
    """What config.json says, as it is and as our config.

    Raises:
        ValueError: it is not that of a packed model.
    """
    content = read_json(place / CONFIG_NAME, "copy or download the folder again")
    described = content.get("quantization_config")
    if not isinstance(described, dict) or described.get("quant_method") != "mpq":
        raise ValueError(f"{place} holds no model packed by hf_mpq: give a folder that hf_mpq.pack and saving made")
    check_finished(described)
    config = MPQConfig.from_dict(described)
    if config.storage != "packed":
        raise ValueError(f"{place} is a checkpoint for training: hf_mpq.pack(model).save_pretrained(...) packs it")
    return content, config


def _check_signed(config: MPQConfig, content: dict[str, Any], signed: dict[str, str]) -> None:
    if config.format_version < SIGNED_SINCE:
        raise PackedFormatError("a folder of format 1 cannot be extracted from: load it, and save it again before")
    if not signed:
        raise PackedFormatError(
            "the file does not say which config it was saved with: it was rewritten by another tool; save it again "
            "with hf_mpq"
        )
    check_quantization(content["quantization_config"], signed)


def _write_weights(packed: PackedFiles, cut: Cut, signed: dict[str, str], folder: Path) -> None:
    """A file for each file, and their index; what is read is checked."""
    digests, prefixes = Digests.of(packed.files), packed.prefixes(cut)
    refuse([], digests.tensors.keys() - packed.headers.keys(), packed.headers.keys() - digests.tensors.keys())
    total = 0
    for file in map(Path, packed.files):
        tensors = dict(_checked(file, digests, prefixes, cut))
        planes = {full: _planes(packed, cut, full) for full in tensors if full in digests.planes or full in prefixes}
        metadata = _metadata(file) | digests_to_metadata(tensors, signed) | planes_to_metadata(tensors, planes)
        save_file(tensors, folder / file.name, metadata)
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = Path(packed.files[0]).parent / SAFE_WEIGHTS_INDEX_NAME
    if len(packed.files) > 1 or Path(packed.files[0]).name in (index.read_text() if index.is_file() else ""):
        content = read_json(index)
        content["metadata"] = {**content.get("metadata", {}), "total_size": total}
        (folder / index.name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _checked(file: Path, digests: Digests, prefixes: dict[str, Prefix], cut: Cut) -> Iterator[tuple[str, Tensor]]:
    for full, tensor in read_tensors([file], digests, prefixes):
        if not digests.agree(full, tensor, prefixes.get(full)):
            refuse([full], (), ())
        yield full, cut.of(full, tensor).clone()


def _planes(packed: PackedFiles, cut: Cut, full: str) -> int:
    """Planes that are left of some nested codes."""
    owner = packed.places[full][0]
    return (cut.matrices[owner][1] if owner in cut.matrices else packed.nested[owner]).served[-1]


def _metadata(file: Path) -> dict[str, str]:
    """What other tools wrote into the metadata."""
    with safe_open(str(file), framework="pt") as content:
        return {key: value for key, value in (content.metadata() or {}).items() if not key.startswith("mpq_")}


def _copy_others(folder: Path, place: Path, new: Path) -> None:
    """Files beside the model, and the other modules of sentence-transformers, whole."""
    for source in {folder, place}:
        target = new / source.relative_to(folder)
        target.mkdir(parents=True, exist_ok=True)
        for file in (one for one in source.iterdir() if one.is_file()):
            if file.name != CONFIG_NAME and not any(fnmatch(file.name, pattern) for pattern in LEFT):
                shutil.copy2(file, target / file.name)
    for path in (one for one in _modules(folder) if one and (folder / one).resolve() != place.resolve()):
        if (folder / path).is_dir():
            shutil.copytree(folder / path, new / path, dirs_exist_ok=True)
