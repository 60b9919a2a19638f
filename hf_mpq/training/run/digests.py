"""Short digests of what a run was given, by which another model or other data are noticed when it is resumed."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn

from ...core.inputs import is_label
from ...nn import encoder_blocks
from ...weights.roles import LearnedPart

NUMBERS = 512
"""Of a parameter, spread over it."""
ROWS = 16
"""Of a data set, spread over it."""
_GIVEN = "_given_to_run"


def digest_of_model(model: nn.Module) -> str | None:
    """Of the weights in the encoder layers, without what quantizers and gates learn; heads, which may be new and random
    whenever they are loaded, do not count. None where the weights are not in memory."""
    learned = {id(one) for part in model.modules() if isinstance(part, LearnedPart) for one in part.parameters()}
    found = hashlib.sha256()
    for name, block in encoder_blocks(model).items():
        for part, value in block.named_parameters():
            if value.is_meta:
                return None
            if id(value) not in learned:
                some = value.detach().flatten()[:: max(1, value.numel() // NUMBERS)].float().cpu().contiguous()
                found.update(f"{name}.{part}".encode() + some.numpy().tobytes())
    return found.hexdigest()[:12]


def digest_given_to(folder: str | Path, model: nn.Module) -> str | None:
    """`digest_of_model` when a model was first given to the run in a folder: that run may have trained it since."""
    place, known = str(Path(folder).resolve()), vars(model).get(_GIVEN)
    if known is None or known[0] != place:
        known = vars(model)[_GIVEN] = (place, digest_of_model(model))
    return known[1]


def digest_of_rows(rows: Any) -> str | None:
    """Of some tokenized rows; None for what is no data set of rows that stay the same."""
    if not isinstance(rows, Dataset) or rows.format["type"] == "custom" or not len(rows):
        return None
    columns = [name for name in rows.column_names if name == "input_ids" or is_label(name)]
    plain: Sequence = rows.with_format(None).select_columns(columns)
    places = sorted({place * (len(rows) - 1) // (ROWS - 1) for place in range(ROWS)})
    text = json.dumps([plain[place] for place in places], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
