"""The model of a folder."""

from pathlib import Path

from torch import nn
from transformers import AutoConfig, PretrainedConfig

from ...plugin.architectures import loader_of


def loaded(model: nn.Module | str | Path) -> nn.Module:
    """The model itself, or the one in a folder, with the head that it was saved with.

    Raises:
        OSError: when the folder holds no model, or one whose class transformers does not have
            (then give the loaded model).
    """
    if isinstance(model, nn.Module):
        return model
    kind, options = loader_of(model, _config_of(model))
    return kind.from_pretrained(model, **options)


def _config_of(place: str | Path) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=False)
    except OSError as error:
        if Path(place).is_dir():
            raise
        raise OSError(
            f"{str(place)!r} is no folder here, and the Hub does not give a model of that name: check the spelling"
        ) from error
