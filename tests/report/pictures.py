"""What the tests of figures look at."""

from io import BytesIO
from pathlib import Path

import numpy as np

import hf_mpq
from tests.tiny import tiny_model


def mixed(family: str, head: str = "sequence", packed: bool = False, **config):
    """A tiny model whose sub-groups have 0, 2, 3, 4 and 8 bits in turn."""
    model = tiny_model(family, head)
    config = hf_mpq.MPQConfig(**{"bits": (0, 2, 3, 4, 8), "groups": 8, "embedding_bits": (2, 4, 8), **config})
    space, matrices = config.resolve(model), {}
    for start, (name, spec) in enumerate(space.weights.items()):
        order = [spec.candidates[(start + k) % len(spec.candidates)] for k in range(spec.layout.count)]
        matrices[name] = hf_mpq.core.MatrixAssignment(tuple(order))
    config.assignment = hf_mpq.Assignment(matrices).to_dict()
    model = hf_mpq.quantize(model, config)
    return hf_mpq.pack(model) if packed else model


def drawn(figure, file: Path | None = None) -> np.ndarray:
    """The figure as pixels, `(height, width, 4)` from 0 to 1; drawing must not fail or warn."""
    from matplotlib.image import imread

    target = BytesIO() if file is None else file
    figure.savefig(target, format="png")
    if file is None:
        target.seek(0)
    return imread(target)


def words(figure) -> str:
    """Every text of a figure."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text) if text.get_text())
