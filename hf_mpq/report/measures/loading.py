"""The model of a folder."""

from pathlib import Path

from torch import nn
from transformers import AutoConfig

from ...plugin.architectures import architecture, class_of


def loaded(model: nn.Module | str | Path) -> nn.Module:
    """The model itself, or the one in a folder, with the head that it was saved with.

    Raises:
        OSError: when the folder holds no model, or one whose class transformers does not have.
    """
    if isinstance(model, nn.Module):
        return model
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    kind = class_of(config)
    if kind is None:
        raise OSError(
            f"{model} needs the class {architecture(config)}, which transformers does not have: load it with "
            "its own class, and give the model instead of the folder"
        )
    return kind.from_pretrained(model)
