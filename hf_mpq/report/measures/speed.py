"""How fast a model is as it will be served."""

import copy
import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn

from ...core.stopwatch import seconds as seconds_on
from ...plugin import MPQConfig, pack
from ...runtime import prepare
from ...runtime.automatic import shape_of
from ...runtime.machine import machine
from ...runtime.timing import example

WARM_UP, FEWEST_CALLS, MOST_CALLS = 3, 5, 200


@dataclass(frozen=True)
class Speed:
    """What passes at one shape took, in wall time.

    Attributes:
        batch, tokens: of the input.
        milliseconds, low, high: of one pass: median and quartiles.
        calls, warm_up: passes that counted, and passes before them.
        backend: what ran; `"torch"` for a float model.
    """

    batch: int
    tokens: int
    milliseconds: float
    low: float
    high: float
    calls: int
    warm_up: int
    backend: str

    @property
    def per_second(self) -> float:
        """Sequences in a second."""
        return 1000 * self.batch / self.milliseconds


def served(model: nn.Module, backend: str = "auto") -> nn.Module:
    """A copy of a model that is ready to serve: packed and prepared; of a float model just a copy.

    Raises:
        ValueError: when the model cannot be packed, or the backend cannot run it.
    """
    twin = copy.deepcopy(model).eval()
    config = getattr(twin.config, "quantization_config", None)
    if not isinstance(config, MPQConfig):
        return twin
    return prepare(twin if config.storage == "packed" else pack(twin), backend)


def measure_speed(model: nn.Module, batch: int, tokens: int, seconds: float = 2.0, backend: str = "auto") -> Speed:
    """Time passes over random ids without padding.

    Args:
        model: as `served` returns it, on its device.
        batch, tokens: of the input.
        seconds: to measure for, about; at least five passes.
        backend: that the model was prepared with, for the record.
    """
    inputs = _inputs(model, batch, tokens)
    for _ in range(WARM_UP):
        _milliseconds(model, inputs)
    times, end = [], time.perf_counter() + seconds
    while len(times) < FEWEST_CALLS or (time.perf_counter() < end and len(times) < MOST_CALLS):
        times.append(_milliseconds(model, inputs))
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return Speed(batch, tokens, middle, low, high, len(times), WARM_UP, _backend(model, inputs, backend))


def one_pass(model: nn.Module, batch: int, tokens: int) -> None:
    """Run a model once, on the inputs that `measure_speed` times."""
    _milliseconds(model, _inputs(model, batch, tokens))


def _inputs(model: nn.Module, batch: int, tokens: int) -> dict[str, torch.Tensor]:
    return {name: value.to(model.device) for name, value in example(model, batch, tokens).items()}


@torch.inference_mode()
def _milliseconds(model: nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    start = seconds_on(model.device)
    model(**inputs)
    return 1000 * (seconds_on(model.device) - start)


def _backend(model: nn.Module, inputs: dict[str, torch.Tensor], asked: str) -> str:
    """What `"auto"` chose at this shape, else what was asked for."""
    if not isinstance(getattr(model.config, "quantization_config", None), MPQConfig):
        return "torch"
    fastest = vars(model).get("fastest_backend")
    return asked if fastest is None else fastest.chosen.get(shape_of((), inputs), fastest.names[0])


def device_name(device: torch.device) -> str:
    """The processor's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else machine()["cpu"] or device.type
