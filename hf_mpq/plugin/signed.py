"""Which fields of a config a model's outputs depend on, and whether they are what its weights were saved with."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash
from transformers import PretrainedConfig
from transformers.utils import logging

from ..format import PackedFormatError
from .config import MPQConfig

logger = logging.get_logger(__name__)

_FREE = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "finetuning_task",
    "task_specific_params",
    "tokenizer_class",
    "license",
    "language",
    "custom_pipelines",
    "sentence_transformers",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "gradient_checkpointing",
    "chunk_size_feed_forward",
    "bos_token_id",
    "eos_token_id",
    "cls_token_id",
    "sep_token_id",
    "mask_token_id",
    "decoder_start_token_id",
    "prefix",
    "reference_compile",
    "deterministic_flash_attn",
    "sparse_prediction",
    "sparse_pred_ignore_index",
    "repad_logits_with_grad",
    "gradient_checkpointing_kwargs",
    "note",
    "origin",
    "resolved",
}
"""Names, types, labels and what only training, generation or reports read: anyone may change them."""
_OPENED = {"quantization_config", "packed", "matrices", "norms"}
_LONGEST, _DIGEST = 60, "xxh3:"


def signature(config: PretrainedConfig) -> dict[str, str]:
    """Dotted field to its value as JSON, long ones as a digest, by name: of every field that the outputs depend on."""
    return dict(sorted(_fields(_plain(config.to_diff_dict()))))


def check_config(config: PretrainedConfig, now: Mapping[str, str], signed: Mapping[str, str], file: Path) -> None:
    """Compare a config as it is now with the one that the weights were saved with.

    What either leaves out has its default, so that fields that a newer transformers adds are no difference. A change
    that `file` does not say is the user's own, and is said.

    Args:
        config: with what the user passed.
        now: its `signature`.
        signed: `signature` of then.
        file: the `config.json` beside the weights; it need not be there.

    Raises:
        PackedFormatError: when the file says something else than it did, or the quantization was changed.
    """
    changed = _differences(now, signed, config)
    if not changed:
        return
    own = _differences(_written(file), signed, config) if file.is_file() else {}
    for field, (value, then) in changed.items():
        if _of_quantization(field) or field in own:  # what a class makes of the field may be written otherwise
            _refuse(field, value, then)
        logger.warning(
            f"{field} is {value} as you gave it, and was {then} when the weights were saved: the outputs "
            "will not be the saved model's"
        )


def check_quantization(content: Mapping[str, Any], signed: Mapping[str, str]) -> None:
    """Compare what a `config.json` says of the quantization with what the weights were saved with; of all else nothing
    is known without the config's class.

    Raises:
        PackedFormatError: for the first field that differs.
    """
    default = dict(_fields(_plain({"quantization_config": asdict(MPQConfig())})))
    now = dict(_fields(_plain({"quantization_config": content})))
    then = {field: value for field, value in signed.items() if _of_quantization(field)}
    for field in sorted({*now, *then}):
        pair = [side.get(field, default.get(field, "absent")) for side in (now, then)]
        if pair[0] != pair[1]:
            _refuse(field, *pair)


def signed_anew(signed: Mapping[str, str], config: MPQConfig) -> dict[str, str]:
    """A signature with another quantization, and with all else as it was."""
    others = {field: value for field, value in signed.items() if not _of_quantization(field)}
    return dict(sorted({**others, **dict(_fields(_plain({"quantization_config": config.to_dict()})))}.items()))


def is_written_in(config: PretrainedConfig, now: Mapping[str, str], file: Path) -> bool:
    """Whether a config, of which `now` is the signature, is what a `config.json` says, and nothing that the user passed
    or another file says."""
    return not _differences(now, _written(file), config)


def _refuse(field: str, value: str, then: str) -> None:
    known = _DIGEST not in value + then
    said = f"is {value}, and was {then} when" if known else "is not what it was when"
    own = f"; to change it on purpose, pass {field.rpartition('.')[2]}= to from_pretrained"
    raise PackedFormatError(
        f"config.json was changed: {field} {said} the weights were saved. Set it back, or copy or "
        f"download the folder again{'' if _of_quantization(field) else own}"
    )


def _of_quantization(field: str) -> bool:
    return "quantization_config" in field.split(".")


def _differences(now: Mapping[str, str], then: Mapping[str, str], config: PretrainedConfig) -> dict:
    """Field to both values, where they differ once defaults are filled in."""
    if now == then:
        return {}
    default = _defaults(config)
    pairs = {
        field: tuple(side.get(field, default.get(field, "absent")) for side in (now, then))
        for field in sorted({*now, *then})
    }
    return {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}


def _defaults(config: PretrainedConfig) -> dict[str, str]:
    """What a field is that nobody wrote."""
    try:
        plain = type(config)().to_dict()
    except Exception:  # a class of the user's own that cannot be made from nothing: every field of it is written
        plain = {}
    return dict(_fields(_plain(plain | {"quantization_config": asdict(MPQConfig())})))


def _written(file: Path) -> dict[str, str]:
    """Fields of a `config.json`."""
    return dict(_fields(json.loads(file.read_text(encoding="utf-8"))))


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(content, default=str))


def _fields(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if name in _FREE or "dropout" in name or name.startswith("initializer_"):
            continue
        if isinstance(value, dict) and (name in _OPENED or "model_type" in value):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _short(json.dumps(value, sort_keys=True))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{_DIGEST}{xxhash.xxh3_64_hexdigest(text.encode())}"
