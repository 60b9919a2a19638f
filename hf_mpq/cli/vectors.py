"""Embedders and late interaction, judged without a head: by how alike the vectors of two texts are."""

import copy
import math
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .embedder import Embedder, read_json
from .errors import UserError, one_line
from .models import check_float, check_packed, check_quantized, damage
from .rows.examples import Examples
from .scores import Judged, points

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn
    from transformers import PretrainedConfig

    from ..plugin.precision import Bits
    from ..tasks.vector_ranking import TextEncoder

CONFIG = "config_sentence_transformers.json"
RERANKER = "CrossEncoder"
"""Has a head, as every classifier."""


def vectors_of(embedder: Embedder | None) -> str | None:
    """The class of sentence-transformers that makes vectors; None where there is none, or it is a reranker.

    Raises:
        UserError: the folder's files are damaged.
    """
    if embedder is None:
        return None
    file = embedder.folder / CONFIG
    kind = read_json(file).get("model_type", "SentenceTransformer") if file.is_file() else "SentenceTransformer"
    return None if kind == RERANKER else str(kind)


def load_float_vectors(source: str | Path, trust: bool = False) -> "TextEncoder":
    """A float model of sentence-transformers; `trust` runs code that lies beside it.

    Raises:
        UserError: it makes no vectors, is quantized, or cannot be loaded.
    """
    import torch

    kind = vectors_of(Embedder.of(source))
    if kind is None:
        raise UserError(
            f"{source} is no embedder of sentence-transformers, as the packed folder is: give the folder that was "
            f"compressed, or its name on the Hub"
        )
    check_float(source, trust)
    return _load(source, kind, trust, dtype=torch.float32)


def load_packed_vectors(
    source: str | Path, kind: str, trust: bool = False, bits: "Bits | None" = None
) -> "TextEncoder":
    """A packed model of sentence-transformers of the class `kind`; others as of `load_packed`."""
    from transformers import PreTrainedModel

    check_quantized(source, trust)
    loaded = _load(source, kind, trust, **({} if bits is None else {"bits": bits}))
    check_packed(next(one for one in loaded.modules() if isinstance(one, PreTrainedModel)), source)
    return loaded


def _load(source: str | Path, kind: str, trust: bool, **options: Any) -> Any:
    with _installed(kind):
        import sentence_transformers

        load = getattr(sentence_transformers, kind)
    with damage(source):
        return load(str(source), device="cpu", trust_remote_code=trust, model_kwargs=options)


@contextmanager
def _installed(kind: str) -> "Iterator[None]":
    try:
        yield
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{kind} of sentence-transformers is needed and not here ({one_line(error)}): pip install -U "
            f"'hf_mpq[embedders]'"
        ) from error


def vector_scorer(
    found: Examples, source: str | Path, trust: bool, max_length: int, rows: int | None
) -> "Callable[[nn.Module], float]":
    """A function from the encoder of an embedder to the embedder's points on the evaluation rows; others as of
    `load_float_vectors` and `VectorJudge`."""
    judge, whole = VectorJudge(found, max_length, rows), load_float_vectors(source, trust)

    def evaluate(model: "nn.Module") -> float:
        whole[0].model = model  # type: ignore[index]
        return judge.judge(whole).points or 0.0

    return evaluate


def config_of_pairs(config: "PretrainedConfig") -> "PretrainedConfig":
    """For `open_data`: labels of pairs are numbers, how alike or how relevant they are, whatever the encoder says."""
    config = copy.deepcopy(config)
    config.num_labels, config.problem_type, config.architectures = 1, None, None
    return config


class VectorJudge:
    """Runs embedders over the same evaluation rows.

    Args:
        found: the examples: pairs of texts, or queries and passages.
        max_length: longest text, where the embedder's own is not shorter.
        rows: how many count; None for all.

    Raises:
        UserError: they are no such rows.
    """

    def __init__(self, found: Examples, max_length: int, rows: int | None):
        task = found.task
        if task is None or not getattr(task, "regression", False) or len(task.text_columns) != 2:
            raise UserError(
                f"an embedder is compared on pairs of texts with a number, how alike they are (--text-column twice, "
                f"--label-column), or on rankings (--task ranking, with the columns query, passage and label); "
                f"{found.name} has neither"
            )
        self.task, self._max_length = task, max_length
        self.data = found.evaluation(rows)

    def judge(self, encoder: Any) -> Judged:
        """Points of an embedder: nDCG@10 of a ranking, else Spearman's correlation of similarities and labels, times
        100."""
        import numpy as np
        from transformers import EvalPrediction

        from ..tasks import pair_similarities

        encoder.max_seq_length = min(encoder.max_seq_length or self._max_length, self._max_length)
        scores = pair_similarities(encoder, *(self.data[name][:] for name in self.task.text_columns))
        metrics = {self.task.headline: math.nan}
        if np.isfinite(scores).all():
            labels = np.asarray(self.data[self.task.label_column][:], float)
            metrics = self.task.metric_function(self.data, self.data)(EvalPrediction(scores, labels))
        return Judged(None, points(self.task, metrics), metrics)
