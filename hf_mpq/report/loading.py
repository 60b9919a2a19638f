"""The model of a folder."""

from pathlib import Path

import transformers
from torch import nn


def loaded(model: nn.Module | str | Path) -> nn.Module:
    """The model itself, or the one in a folder, with the head that it was saved with.

    Raises:
        OSError: when the folder holds no model.
    """
    if isinstance(model, nn.Module):
        return model
    config = transformers.AutoConfig.from_pretrained(model)
    architecture = getattr(transformers, (config.architectures or ["AutoModel"])[0])
    return architecture.from_pretrained(model)
