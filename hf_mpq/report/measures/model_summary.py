"""What there is to say about a compressed model, in numbers."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from io import StringIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...core.plain_text import plain
from .carbon import Carbon
from .loyalty import Loyalty
from .speed import Speed

Row = tuple[str, str, str]
"""Group, what it is, and its value in words."""


@dataclass(frozen=True)
class StageCost:
    """What one stage of a run cost; seconds are None where the run did not write them down."""

    name: str
    steps: int
    seconds: float | None


@dataclass(frozen=True)
class ModelSummary:
    """The metrics of a compressed model; print it for a table.

    Attributes:
        architecture: class of the model.
        disk_bytes: of its weight files; of a model in memory, of all tensors that `pack` writes.
        float_bytes: of the same model in float32.
        paper_mib: encoder size as papers count it, see `SizeReport.paper_mib`.
        average_bits: per encoder weight, stored codes only.
        used_bits: of those that are read; less where nested codes are used below what is stored. None: all.
        pruned: share of the encoder's sub-groups; None for a float model.
        sequence_length: tokens that `macs`, `bops` and `energy` are for.
        macs, bops, float_bops: multiply-accumulates and bit operations of one sequence through the encoder layers.
        bops_form: how they are counted.
        energy: microjoules of one sequence through the encoder's matrices; a model, not a measurement.
        energy_model: whose.
        device, threads, torch: that speed and memory were measured with.
        latency, throughput: a single sequence, and a batch.
        float_latency: of the teacher, at the shape of `latency`.
        peak_memory: bytes of having the prepared model and running one pass at the shape of `latency`; without Python
            and libraries.
        carbon, loyalty: where they were asked for.
        similarity: of a model without a head: mean cosine of its mean-pooled embeddings and the teacher's.
        scores: task metrics, as given.
        search: what the stages of its run cost.
        left_out: name to the reason why a metric is None.
    """

    architecture: str
    disk_bytes: int
    float_bytes: int
    paper_mib: float
    average_bits: float
    pruned: float | None = None
    used_bits: float | None = None
    sequence_length: int = 128
    macs: float | None = None
    bops: float | None = None
    float_bops: float | None = None
    bops_form: str = ""
    energy: float | None = None
    energy_model: str = ""
    device: str = ""
    threads: int = 0
    torch: str = ""
    latency: Speed | None = None
    throughput: Speed | None = None
    float_latency: Speed | None = None
    peak_memory: int | None = None
    carbon: Carbon | None = None
    loyalty: Loyalty | None = None
    similarity: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    search: tuple[StageCost, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """`disk_bytes` over `float_bytes`."""
        return self.disk_bytes / self.float_bytes

    @property
    def speed_up(self) -> float | None:
        """Latency of the teacher over that of the model."""
        both = self.latency and self.float_latency
        return self.float_latency.milliseconds / self.latency.milliseconds if both else None

    @property
    def place(self) -> str:
        """What speed and memory were measured on, in words."""
        return f"{self.device}, {self.threads} {'thread' if self.threads == 1 else 'threads'}, torch {self.torch}"

    def to_json(self) -> str:
        """Everything, with `ratio` and `speed_up`."""
        return json.dumps({**asdict(self), "ratio": self.ratio, "speed_up": self.speed_up}, indent=1)

    def rows(self) -> Iterator[Row]:
        """What tables show."""
        yield "size", "on disk", f"{self.disk_bytes / 1e6:.2f} MB, {self.ratio:.3f} of float32"
        yield "size", "as papers count", f"{self.paper_mib:.2f} MiB: encoder codes, biases and norms"
        used = "" if self.used_bits in (None, self.average_bits) else f", {self.used_bits:.2f} of them used"
        yield "size", "bits per encoder weight", f"{self.average_bits:.2f}{used}"
        if self.pruned is not None:
            yield "size", "pruned sub-groups", f"{self.pruned:.1%}"
        yield from (("quality", name, f"{value:.4g}") for name, value in self.scores.items())
        if self.loyalty is not None:
            count = f" of {self.loyalty.predictions} predictions"
            yield "quality", "label loyalty", f"{self.loyalty.labels:.2%}{count}"
            yield "quality", "probability loyalty", f"{self.loyalty.probabilities:.4f}, 1 - sqrt(JS)"
        if self.similarity is not None:
            yield "quality", "embeddings like the teacher's", f"{self.similarity:.4f}, mean cosine"
        yield from self._compute_rows()
        yield from self._measured_rows()
        for stage in self.search:
            spent = "" if stage.seconds is None else f"{stage.seconds:.0f} s, "
            yield "training", stage.name, f"{spent}{stage.steps} steps"
        yield from (("not told", name.replace("_", " "), reason) for name, reason in self.left_out.items())

    def _compute_rows(self) -> Iterator[Row]:
        at = f"{self.sequence_length} tokens"
        if self.bops is not None:
            yield "compute", f"MACs, {at}", _short(self.macs)
            share = self.bops / self.float_bops
            yield "compute", f"BOPs, {at}", f"{_short(self.bops)}, {share:.4f} of float32; {self.bops_form}"
        if self.energy is not None:
            yield "compute", f"energy, {at}", f"{self.energy / 1000:.3g} mJ by a model: {self.energy_model}"

    def _measured_rows(self) -> Iterator[Row]:
        if self.latency is not None:
            yield "measured", "on", self.place
            one = self.latency
            yield "measured", f"latency, {one.batch} x {one.tokens}", _spread(one)
        if self.throughput is not None:
            many = self.throughput
            yield (
                "measured",
                f"throughput, {many.batch} x {many.tokens}",
                f"{many.per_second:.4g} sequences a second, {many.backend}",
            )
        if self.float_latency is not None:
            yield "measured", "latency of the teacher", f"{_spread(self.float_latency)}: {self.speed_up:.2f} times it"
        if self.peak_memory is not None:
            yield "measured", "peak memory", f"{self.peak_memory / 1e6:.1f} MB for the model and one pass"
        if self.carbon is not None:
            one = self.carbon
            yield (
                "measured",
                f"carbon, 1000 sequences in {one.country}",
                f"{one.grams:.3g} g CO2eq, {one.watt_hours:.3g} Wh; {one.tracker}",
            )

    def __rich__(self) -> Table:
        table, last = Table("", "metric", "value", title=self.architecture), ""
        for group, name, value in self.rows():
            if group != last and last:
                table.add_section()
            table.add_row(group if group != last else "", Text(plain(name)), Text(plain(value)))
            last = group
        return table

    def __str__(self) -> str:
        text = StringIO()
        Console(file=text, width=110, force_jupyter=False, color_system=None).print(self)
        return text.getvalue()


def _short(count: float) -> str:
    powers = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (0.0, ""))
    power, letter = next(one for one in powers if count >= one[0])
    return f"{count / (power or 1):.3g} {letter}".strip()


def _spread(speed: Speed) -> str:
    return (
        f"{speed.milliseconds:.3g} ms (quartiles {speed.low:.3g} to {speed.high:.3g}; {speed.calls} passes after "
        f"{speed.warm_up}; {speed.backend})"
    )
