"""`hf-mpq bench`: how fast, how big, how much memory, here."""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from .. import options
from ..console import print_json, say, screen
from ..embedder import encoder_of
from ..errors import UserError
from ..models import load_float, load_packed, longest_input
from ..timing import summary, take_turns
from ..typed import check_models, check_word, checked_precisions

if TYPE_CHECKING:
    from torch import nn

FLOAT = "float32"
Shape = tuple[int, int]


def bench(
    folder: options.Folder,
    teacher: Annotated[str | None, typer.Option(help="A float model to time beside it.")] = None,
    shapes: Annotated[str, typer.Option(help="Batch x tokens, with commas between.")] = "1x32,1x128,8x128",
    backend: Annotated[
        list[str] | None, typer.Option(help="reference, cpu-float, cpu-int8, ...; may be repeated; default: all.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda for the first GPU.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: torch's.")] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Measurements of each.")] = 15,
    loading: Annotated[bool, typer.Option(help="Load time and memory, in processes of their own.")] = True,
    bits: options.Precisions = None,
    trust_remote_code: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Time a packed model in every backend, and its float teacher: medians and quartiles, in turn on random inputs.

    The first use of cpu-int8 builds a kernel, which takes about a minute.

    [bold]Examples[/bold]

      hf-mpq bench packed --teacher my-fine-tuned-bert --threads 2
      hf-mpq bench packed --shapes 1x16,4x32 --backend reference --backend cpu-float --json

    [bold]Exit codes[/bold]: 0 done; 2 wrong arguments or files, or a backend that cannot run this model here.
    """
    check_models(folder, teacher)
    precisions = checked_precisions(bits)
    for word in backend or ():
        check_word("backend", word)
    wanted = [_shape(text) for text in re.split(r"[,\s]+", shapes.strip())]
    from ...report.measures.speed import device_name

    packed = on(device, load_packed(folder, trust_remote_code, precisions))
    _check_lengths(wanted, packed)
    models = _prepared(packed, backend)
    if teacher is not None:
        models = {FLOAT: on(device, load_float(teacher, trust_remote_code)), **models}
    with _threads(threads) as used:
        latencies = {f"{batch}x{tokens}": _latencies(models, batch, tokens, rounds) for batch, tokens in wanted}
    places = {"packed": str(folder), **({FLOAT: teacher} if teacher is not None else {})}
    asked = {"packed": bits}
    sizes = {name: _cost(place, loading, trust_remote_code, asked.get(name)) for name, place in places.items()}
    found = {"device": device_name(packed.device), "threads": used, "latency": latencies, "model": sizes}
    if json:
        print_json(found)
        return
    screen().print(_latency_table(latencies, f"{found['device']}, {used} thread(s)"))
    screen().print(_size_table(sizes))
    if teacher is None:
        say("with --teacher FOLDER the float model is timed beside it")


def on(device: str, model: "nn.Module") -> "nn.Module":
    """The model there.

    Raises:
        UserError: there is no such device.
    """
    import torch

    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"there is no device {device!r} here: give cpu" + (" or cuda" * torch.cuda.is_available()))
    return model.to(device)


def _shape(text: str) -> Shape:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise UserError(f"--shapes {text!r} is not understood: write batch x tokens, such as 1x128,8x128")
    return int(match[1]), int(match[2])


def _check_lengths(shapes: list[Shape], model: "nn.Module") -> None:
    for _, tokens in shapes:
        if longest_input(model, tokens) < tokens:
            raise UserError(
                f"{tokens} tokens are more than the {longest_input(model, tokens)} positions of this "
                f"model: give smaller --shapes"
            )


def _prepared(packed: "nn.Module", names: list[str] | None) -> "dict[str, nn.Module]":
    """A prepared copy for each backend; by default for each that can run here, and a word about each that cannot."""
    from ... import prepare
    from ...runtime.backends import BACKENDS

    reasons = {name: BACKENDS[name].unavailable(packed) for name in names or BACKENDS}
    if names is None:
        for name, reason in reasons.items():
            if reason is not None:
                say(f"not timed: {name} ({reason})")
        names = [name for name, reason in reasons.items() if reason is None]
    return {name: prepare(copy.deepcopy(packed), name) for name in names}


@contextmanager
def _threads(count: int | None) -> Iterator[int]:
    """So many threads inside; how many that is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)


def _latencies(models: "dict[str, nn.Module]", batch: int, tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    from ...runtime.timing import example

    first = next(iter(models.values()))
    inputs = {name: value.to(first.device) for name, value in example(first, batch, tokens).items()}
    taken = take_turns(models, inputs, rounds)
    return {name: summary(times, batch) for name, times in taken.items()}


def _cost(place: str, loading: bool, trust: bool, bits: str | None) -> dict[str, float | None]:
    """Bytes of the weights on disk, for a folder; seconds and memory of loading them."""
    from ..loading import loading_cost

    files = [file for file in Path(encoder_of(place)).glob("*") if file.suffix in (".safetensors", ".bin")]
    size = sum(file.stat().st_size for file in files) if files else None
    return {"disk_bytes": size, **(loading_cost(str(encoder_of(place)), trust, bits) if loading else {})}


def short(number: float) -> str:
    """Three digits, or the whole number where it has more."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def _latency_table(latencies: dict[str, dict[str, dict[str, float]]], title: str) -> Table:
    table = Table("ms, median (quartiles)", *latencies, title=title)
    for name in next(iter(latencies.values())):
        cells = []
        for of_shape in latencies.values():
            one, whole = of_shape[name], of_shape.get(FLOAT)
            speed = f" {whole['median_ms'] / one['median_ms']:.2f}x" if whole and name != FLOAT else ""
            middle, low, high = (short(one[f"{name}_ms"]) for name in ("median", "quartile_1", "quartile_3"))
            cells.append(f"{middle} ({low} to {high}){speed}")
        table.add_row(name, *cells)
    return table


def _size_table(sizes: dict[str, dict[str, float | None]]) -> Table:
    table = Table("", "MB on disk", "s to load", "peak MB, first pass included")
    for name, cost in sizes.items():
        size, seconds, peak = (cost.get(key) for key in ("disk_bytes", "seconds", "peak_bytes"))
        table.add_row(
            name,
            "-" if size is None else f"{size / 1e6:.2f}",
            "-" if seconds is None else f"{seconds:.2f}",
            "-" if peak is None else f"{peak / 1e6:.0f}",
        )
    return table
