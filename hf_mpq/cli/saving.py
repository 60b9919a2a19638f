"""Whole folders of packed models, looked at before anybody is told that they are there."""

from pathlib import Path
from typing import TYPE_CHECKING

from .embedder import Embedder
from .errors import one_line
from .models import load_packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_whole(
    packed: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", embedder: Embedder | None, folder: Path
) -> None:
    """The model, its tokenizer, and what else the folder of sentence-transformers has that it came from."""
    place = folder if embedder is None else embedder.encoder_in(folder)
    packed.save_pretrained(place)
    tokenizer.save_pretrained(place)
    if embedder is not None:
        embedder.complete(folder)


def check_written(packed: "PreTrainedModel", folder: Path, trust: bool) -> None:
    """Load what was written, and compare what it gives.

    Raises:
        RuntimeError: it cannot be loaded, or gives something else.
    """
    import torch

    from ..runtime.timing import example

    try:
        again = load_packed(folder, trust)
    except Exception as error:
        raise RuntimeError(f"the folder could not be loaded again ({one_line(error)}), so nothing is kept") from error
    inputs = example(packed, 1, 8)
    with torch.inference_mode():
        pairs = zip(packed.eval()(**inputs).values(), again(**inputs).values(), strict=True)
        same = all(
            torch.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True)
            for first, second in pairs
            if isinstance(first, torch.Tensor)
        )
    if not same:
        raise RuntimeError("the folder gives other numbers when it is loaded again, so nothing is kept")
