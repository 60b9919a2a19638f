"""Embedders and late interaction, judged without a head: by how alike the vectors of two texts are."""

import copy
import math
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .embedder import Embedder, read_json
from .errors import UserError, one_line
from .models import (
    ASKING,
    Untrusted,
    check_float,
    check_packed,
    check_quantized,
    damage,
    encoder_of,
    has_tokenizer,
    longest_input,
)
from .rows.examples import Examples
from .scores import Judged, check_labels, points

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    from ..plugin.precision import Bits
    from ..tasks.vector_ranking import TextEncoder

CONFIG = "config_sentence_transformers.json"
KINDS = ("SentenceTransformer", "SparseEncoder", "MultiVectorEncoder")
"""Classes of sentence-transformers whose vectors are compared; a folder of an older version is one of the first."""
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
    kind = read_json(file).get("model_type", KINDS[0]) if file.is_file() else KINDS[0]
    return None if kind == RERANKER else str(kind)


def load_float_vectors(source: str | Path, kind: str, trust: bool = False) -> "TextEncoder":
    """A float model of sentence-transformers of the class `kind`; `trust` runs code that lies beside it.

    Raises:
        UserError: it is another one, makes no vectors, is quantized, or cannot be loaded.
    """
    import torch

    check_float(source, trust)
    own = vectors_of(Embedder.of(source))
    if own != kind:
        raise UserError(
            f"{source} is {'no embedder' if own is None else f'a {own}'} of sentence-transformers, and the packed "
            f"folder a {kind}: give the folder that was compressed, or its name on the Hub"
        )
    return _load(source, kind, trust, dtype=torch.float32)


def load_packed_vectors(
    source: str | Path, kind: str, trust: bool = False, bits: "Bits | None" = None
) -> "TextEncoder":
    """A packed model of sentence-transformers of the class `kind`; others as of `load_packed`."""
    check_quantized(source, trust)
    loaded = _load(source, kind, trust, **({} if bits is None else {"bits": bits}))
    check_packed(_encoder(loaded), source)
    return loaded


def check_pair(folder: str | Path, teacher: str | Path) -> None:
    """Raise UserError where a teacher, here, makes vectors, and the packed folder does not."""
    if Path(teacher).is_dir() and vectors_of(Embedder.of(teacher)) is not None:
        raise UserError(
            f"{teacher} is an embedder of sentence-transformers, and {folder} is none: give the whole folder that "
            f"`hf-mpq compress {teacher}` wrote"
        )


def _load(source: str | Path, kind: str, trust: bool, **options: Any) -> Any:
    if kind not in KINDS:
        raise UserError(
            f"{source} says model_type {kind!r} in its {CONFIG}, and vectors are compared of {', '.join(KINDS)}: "
            f"copy the folder again, or compare it in Python"
        )
    with _installed(kind):
        import sentence_transformers

        load = getattr(sentence_transformers, kind)
    place = encoder_of(source)
    if Path(place).is_dir() and not has_tokenizer(place):
        raise UserError(f"no tokenizer in {place}: copy or download the folder again")
    try:
        with damage(source):
            loaded = load(str(source), device="cpu", trust_remote_code=trust, model_kwargs=options)
            _encoder(loaded)
            return loaded
    except ValueError as error:
        if ASKING in str(error):
            raise Untrusted(source, "modules") from error
        raise
    except (TypeError, AttributeError, KeyError, StopIteration) as error:
        raise UserError(f"{source} is damaged ({one_line(error)}): copy or download the folder again") from error


def _encoder(loaded: Any) -> "PreTrainedModel":
    """The model of transformers in one of sentence-transformers; raises StopIteration where there is none."""
    from transformers import PreTrainedModel

    return next(one for one in loaded.modules() if isinstance(one, PreTrainedModel))


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
    judge = VectorJudge(found, max_length, rows)
    whole: Any = load_float_vectors(source, vectors_of(Embedder.of(source)) or "", trust)
    inside = _encoder(whole)
    holder = next(one for one in whole.modules() if getattr(one, "model", None) is inside)
    headed = inside.base_model is not inside  # of a sparse encoder

    def evaluate(model: "nn.Module") -> float:
        holder.model = model if headed else model.base_model
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
        check_labels(task, self.data)

    def judge(self, encoder: Any) -> Judged:
        """Points of an embedder: nDCG@10 of a ranking, else Spearman's correlation of similarities and labels, times
        100."""
        import numpy as np
        from transformers import EvalPrediction

        from ..tasks import pair_similarities

        longest = longest_input(_encoder(encoder), self._max_length)
        encoder.max_seq_length = min(encoder.max_seq_length or longest, longest)
        try:
            scores = pair_similarities(encoder, *(self.data[name][:] for name in self.task.text_columns))
        except KeyError as error:
            raise UserError(
                f"the folder makes no vector of a text ({one_line(error)}): copy or download it again, with its pooling"
            ) from error
        if np.ptp(scores) == 0:
            raise UserError(f"all pairs are equally similar, with texts of at most {longest} tokens: give other texts")
        metrics = {self.task.headline: math.nan}
        if np.isfinite(scores).all():
            labels = np.asarray(self.data[self.task.label_column][:], float)
            metrics = self.task.metric_function(self.data, self.data)(EvalPrediction(scores, labels))
        return Judged(None, points(self.task, metrics), metrics)
