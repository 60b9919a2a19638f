"""What a page says in words and numbers."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch import nn

from ...nn.precision import lowered_precisions
from ...plugin import MPQConfig, assignment_of
from ...runs.reader import Run
from ..figures.theme import Theme
from ..measures.model_summary import ModelSummary
from ..measures.size_report import SizeReport

PRECISIONS = tuple(range(9))


def colours(theme: Theme) -> dict[str, str]:
    """Name to value of the page's colours."""
    bits = dict(zip((f"bits-{bits}" for bits in PRECISIONS), theme.bit_colours(PRECISIONS)))
    return {"page": theme.page, "ink": theme.ink, "faint": theme.faint, **bits}


def subtitle(summary: ModelSummary, run: Run | None) -> str:
    """Class of the model, and how it was trained."""
    made = "" if run is None else f", trained by {run.method}" + (f" under {run.budget}" if run.budget else "")
    return f"{summary.architecture}{made}"


def tiles(summary: ModelSummary) -> Iterator[tuple[str, str]]:
    """The few numbers that come first."""
    yield f"{summary.disk_bytes / 1e6:.1f} MB", "on disk"
    yield f"{1 / summary.ratio:.1f} x", "smaller than float32"
    yield f"{summary.average_bits:.2f}", "bits per encoder weight"
    yield from ((f"{value:.4g}", name) for name, value in summary.scores.items())
    if summary.latency is not None:
        yield f"{summary.latency.milliseconds:.3g} ms", f"one input of {summary.latency.tokens} tokens"
    if summary.loyalty is not None:
        yield f"{summary.loyalty.labels:.1%}", "labels like the teacher's"
    if summary.similarity is not None:
        yield f"{summary.similarity:.4f}", "cosine to the teacher's embeddings"


def groups(summary: ModelSummary) -> dict[str, list[tuple[str, str]]]:
    """Rows of the summary by group."""
    groups = defaultdict(list)
    for group, name, value in summary.rows():
        groups[group].append((name, value))
    return groups


def places(report: SizeReport) -> Iterator[tuple[str, int, int]]:
    """Part, bytes as float32, bytes packed."""
    for place in ("embeddings", "encoder", "head", "total"):
        parts = [part for part in report.parts if place in (part.place, "total")]
        yield place, sum(part.float_bytes for part in parts), sum(part.packed_bytes for part in parts)


def matrices(model: nn.Module, report: SizeReport) -> Iterator[dict[str, Any]]:
    """Name, shape, bits and bytes of every quantized matrix."""
    if not isinstance(getattr(model.config, "quantization_config", None), MPQConfig):
        return
    stored, used = {part.name: part for part in report.parts if part.stored is not None}, lowered_precisions(model)
    for name, matrix in assignment_of(model).matrices.items():
        layout, histogram = stored[name].stored.layout, matrix.histogram()
        words = ", ".join(f"{count} at {bits} bits" if bits else f"{count} pruned" for bits, count in histogram.items())
        words += f", used at {used[name]} bits" if name in used else ""
        yield {
            "name": name,
            "shape": "{} x {}".format(*layout.shape),
            "count": layout.count,
            "histogram": histogram,
            "words": words,
            "bytes": stored[name].packed_bytes,
        }
