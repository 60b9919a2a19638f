"""Models and tokenizers by folder or by name on the Hub, float or packed."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .embedder import encoder_of
from .errors import UserError, one_line

ASKING = "trust_remote_code"
"""What transformers' refusals of code beside a model name."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ..plugin.precision import Bits


def config_of(source: str | Path, trust: bool = False) -> "PretrainedConfig":
    """The config of a model; `trust` runs code that lies beside it.

    Raises:
        UserError: there is no such folder, no model in it, no such model on the Hub, the config is damaged, or it has
            code beside it that is not trusted.
    """
    check_place(source)
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(encoder_of(source), trust_remote_code=trust)
        _check_words(config)
        return config
    except (TypeError, AttributeError, StrictDataclassError) as error:
        raise UserError(f"config.json of {source} is damaged ({one_line(error)}): copy or download it again") from error
    except (OSError, KeyError, ValueError) as error:
        if ASKING in str(error):
            raise Untrusted(source, "config") from error
        if Path(source).exists():
            raise UserError(f"{source} holds no model that transformers can read: {one_line(error)}") from error
        raise UserError(
            f"{str(source)!r} is no folder here, and the Hub does not give a model of that name: check the "
            f"spelling, your network and HF_HUB_OFFLINE, or `hf auth login` for a private one"
        ) from error


def _check_words(config: "PretrainedConfig") -> None:
    """Raise TypeError for what transformers takes from the file as it is, and stumbles over later."""
    import torch

    for name in config.architectures or ():
        if not isinstance(name, str):
            raise TypeError(f"architectures has {name!r}")
    kind = getattr(config, "dtype", None)
    if not isinstance(kind, str | torch.dtype | None):
        raise TypeError(f"dtype is {kind!r}")


class Untrusted(UserError):
    """A model or a tokenizer needs code that lies beside it and may not be run."""

    def __init__(self, source: str | Path, what: str):
        super().__init__(
            f"{source} has code of its own for its {what}, which is not run unasked: read it, and give "
            f"--trust-remote-code"
        )


def check_place(source: str | Path) -> None:
    """Raise UserError when a model's folder is not there, or holds none; a name on the Hub is not looked up."""
    if Path(source).is_dir() and not (Path(encoder_of(source)) / "config.json").is_file():
        raise UserError(f"{source} has no config.json: give the folder that save_pretrained wrote")
    if not Path(source).exists() and is_path(source):
        raise UserError(f"there is no folder {source}: give a model's folder, or its name on the Hub")


def is_path(source: str | Path) -> bool:
    """Whether it cannot be a name on the Hub, which has one slash at most."""
    text = str(source)
    return text.count("/") > 1 or text.startswith((".", "~", os.sep)) or text.endswith("/")


def load_float(source: str | Path, trust: bool = False) -> "PreTrainedModel":
    """A float model in float32, in eval mode; `trust` runs code that lies beside it.

    Raises:
        UserError: the model is quantized already, lacks weights, or cannot be loaded.
    """
    import torch

    config = check_float(source, trust)
    model, found = _load(source, config, trust, dtype=torch.float32, output_loading_info=True)
    check_all_there(source, model, found["missing_keys"])
    return model


def check_all_there(source: str | Path, model: "PreTrainedModel", missing: Iterable[str]) -> None:
    """Raise UserError for a model whose files lack weights, which would be random; a pooler may be new, as only some
    heads have one."""
    from ..nn import family_of, relative_names

    family, relative = family_of(model), relative_names(model)
    new = tuple(f"{name}." for name in (() if family is None else family.projections))
    lost = sorted(name for name in missing if not relative(name).startswith(new))
    if lost:
        raise UserError(
            f"the files in {source} lack {len(lost)} of the weights of a {type(model).__name__}, first {lost[0]}, "
            "which would be random: give the model as it was trained, with its head; of a packed folder config.json "
            "has lost its quantization_config"
        )


def check_float(source: str | Path, trust: bool = False) -> "PretrainedConfig":
    """The config of a float model; raises UserError for a quantized one."""
    config = config_of(source, trust)
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(f"the model in {source} is quantized already: give the float model that it was made from")
    return config


def load_packed(source: str | Path, trust: bool = False, bits: "Bits | None" = None) -> "PreTrainedModel":
    """A packed model, in eval mode; `trust` runs code that lies beside it, of a nested one only the planes that `bits`
    needs are read.

    Raises:
        UserError: it is a float model, a trainable one, or cannot be loaded.
        PackedFormatError: it is damaged.
    """
    model = load_quantized(source, trust, bits)
    check_packed(model, source)
    return model


def check_packed(model: "PreTrainedModel", source: str | Path) -> None:
    """Raises UserError for a quantized model that is not packed."""
    if model.config.quantization_config.storage != "packed":
        raise UserError(
            f"{source} is a checkpoint for training, not packed: hf_mpq.pack(model).save_pretrained(...) packs it"
        )


def load_quantized(source: str | Path, trust: bool = False, bits: "Bits | None" = None) -> "PreTrainedModel":
    """A model quantized by hf_mpq, packed or trainable, in eval mode; `trust` and `bits` as of `load_packed`."""
    return _load(source, check_quantized(source, trust), trust, **({} if bits is None else {"bits": bits}))


def check_quantized(source: str | Path, trust: bool = False) -> "PretrainedConfig":
    """The config of a model that hf_mpq quantized; raises UserError for any other."""
    import hf_mpq  # noqa: F401

    config = config_of(source, trust)
    described = getattr(config, "quantization_config", None)
    if described is None:
        raise UserError(f"{source} holds a float model: make it small with `hf-mpq compress {source} ...` first")
    method = described["quant_method"] if isinstance(described, dict) else described.quant_method
    if method != "mpq":
        raise UserError(f"{source} is quantized by {method!r}, not by hf_mpq: give a folder that hf_mpq packed")
    return config


def kind_of(source: str | Path, config: "PretrainedConfig", trust: bool) -> tuple[type, dict]:
    """The class that loads a model, and what its `from_pretrained` must be told beside the place.

    Raises:
        UserError: transformers has no such class, and code beside the model is not there or not trusted.
    """
    from ..plugin.architectures import ClassNotFound, CodeNotTrusted, loader_of

    try:
        return loader_of(source, config, trust)
    except CodeNotTrusted as error:
        raise Untrusted(source, "model") from error
    except ClassNotFound as error:
        raise UserError(str(error)) from error


def _load(source: str | Path, config: "PretrainedConfig", trust: bool, **options) -> "PreTrainedModel":
    kind, needed = kind_of(source, config, trust)
    with damage(source):
        loaded = kind.from_pretrained(encoder_of(source), **options, **needed)
        model, *told = loaded if isinstance(loaded, tuple) else (loaded,)
        model.eval()
        return (model, *told) if told else model


@contextmanager
def damage(source: str | Path) -> Iterator[None]:
    """Damaged weights, or others than the config says, are the user's error."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise UserError(
            f"the weights in {source} are damaged ({one_line(error)}): copy or download the folder again"
        ) from error
    except RuntimeError as error:
        raise UserError(f"the weights in {source} do not fit its config.json: {one_line(error)}") from error


def load_tokenizer(*sources: str | Path, trust: bool = False) -> "PreTrainedTokenizerBase":
    """The tokenizer of the first of the sources that has one; `trust` runs code that lies beside it.

    Raises:
        UserError: none has, it has code beside it that is not trusted, or its files are damaged.
    """
    from transformers import AutoTokenizer

    for source in map(encoder_of, sources):
        if Path(source).is_dir() and not has_tokenizer(source):
            continue
        try:
            return AutoTokenizer.from_pretrained(source, trust_remote_code=trust)
        except Exception as error:  # the library that reads the file has errors of its own
            if ASKING in str(error):
                raise Untrusted(source, "tokenizer") from error
            if Path(source).is_dir():
                raise UserError(
                    f"the tokenizer in {source} is damaged ({one_line(error)}): save or copy its files again"
                ) from error
            if not isinstance(error, OSError | ValueError | KeyError):
                raise
    raise UserError(
        f"no tokenizer in {' or '.join(map(str, sources))}: save it there with "
        f"AutoTokenizer.from_pretrained(BASE).save_pretrained(FOLDER), or name one with --tokenizer"
    )


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a folder has one: of a folder without, transformers makes a tokenizer that knows no words."""
    return any((Path(folder) / name).is_file() for name in TOKENIZER_FILES)


def longest_input(model: "PreTrainedModel", wanted: int) -> int:
    """`wanted` tokens, or as many as the model has positions for."""
    positions = getattr(model.config, "max_position_embeddings", None) or wanted
    tables = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    reserved = [table.padding_idx + 1 for table in tables if getattr(table, "padding_idx", None) is not None]
    return min(wanted, positions - max(reserved, default=0))
