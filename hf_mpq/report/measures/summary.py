"""`summarize`: everything that can be measured of a compressed model, in one call."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...cost import COSTS, BitOperations
from ...plugin import MPQConfig
from ...runs.reader import read_run
from .carbon import carbon_missing, measure_carbon
from .likeness import embedding_similarity
from .loading import loaded
from .loyalty import loyalty
from .memory import PeakMemory
from .model_space import space_of
from .model_summary import ModelSummary, StageCost
from .size_report import size_report
from .speed import device_name, measure_speed, one_pass, served

BOPS_FORM = "simple form: MACs x weight bits x activation bits"
ENERGY_MODEL = "MPIC, a RISC-V core at 250 MHz (Risso et al., 2022)"


def summarize(
    model: nn.Module | str | Path,
    teacher: nn.Module | None = None,
    data: Iterable | None = None,
    *,
    scores: Mapping[str, float] | None = None,
    run_folder: str | Path | None = None,
    measure: bool = True,
    tokens: int = 128,
    batch: int = 32,
    seconds: float = 2.0,
    backend: str = "auto",
    carbon_country: str | None = None,
) -> ModelSummary:
    """Size, compute, speed, memory, energy, carbon, loyalty and search cost of a model, packed or trainable.

    The model is left as it was: a copy is packed and prepared for what is measured.

    Args:
        model: or a folder that holds one.
        teacher: the float model; with `data` for loyalty (without a head: similarity), and for a speed-up.
        data: tokenized rows, or batches of tensors.
        scores: task metrics that are known already, to be listed too.
        run_folder: of the `MPQTrainer` that made the model, for what the search cost.
        measure: time it, and look at its memory; half a dozen times `seconds`.
        tokens, batch: latency is that of one sequence of so many tokens, throughput that of so many sequences.
        seconds: for each measurement.
        backend: as of `prepare`.
        carbon_country: whose electricity it is, three letters; without it, or without codecarbon, carbon is left out.

    Raises:
        OSError: when the folder holds no model.
        ValueError: when the run folder holds no run, or teacher and model do not fit.
    """
    files = Path(model).glob("*.safetensors") if not isinstance(model, nn.Module) else ()
    disk_bytes = sum(file.stat().st_size for file in files)
    model = loaded(model)
    report, reasons = size_report(model), {}
    found: dict[str, Any] = _compute(model, tokens, reasons)
    if measure:
        found |= _measured(model, teacher, tokens, batch, seconds, backend, carbon_country, reasons)
    name, compare = ("similarity", embedding_similarity) if model.base_model is model else ("loyalty", loyalty)
    if teacher is not None and data is not None:
        found[name] = _or_reason(name, reasons, lambda: compare(model, teacher, data))
    else:
        reasons[name] = "it needs teacher= and data="
    if run_folder is not None:
        found["search"] = tuple(
            StageCost(stage.name, stage.result["steps"], stage.result.get("seconds"))
            for stage in read_run(run_folder).stages
            if stage.result
        )
    return ModelSummary(
        type(model).__name__,
        disk_bytes or report.total_bytes,
        sum(part.float_bytes for part in report.parts),
        report.paper_mib,
        report.average_bits,
        used_bits=report.used_bits,
        sequence_length=tokens,
        scores=dict(scores or {}),
        left_out=reasons,
        **found,
    )


def _or_reason(name: str, reasons: dict[str, str], measure: Any) -> Any:
    """What `measure` gives; None with the reason kept where it cannot be."""
    try:
        return measure()
    except (ValueError, OSError) as error:
        reasons[name] = str(error)
        return None


def _compute(model: nn.Module, tokens: int, reasons: dict[str, str]) -> dict[str, Any]:
    """What follows from bits and shapes."""
    if not isinstance(getattr(model.config, "quantization_config", None), MPQConfig):
        reasons |= dict.fromkeys(("bops", "energy"), "the model is not quantized by hf_mpq")
        return {}
    space, assignment = space_of(model)
    bits = [
        one
        for name, matrix in assignment.matrices.items()
        for one in matrix.bits
        if name in space.weights and space.weights[name].role == "encoder"
    ]
    operations = BitOperations(space, tokens)
    energy = _or_reason("energy", reasons, lambda: COSTS["energy"](space, tokens).of(assignment))
    return {
        "pruned": bits.count(0) / max(len(bits), 1),
        "macs": operations.macs,
        "bops": operations.of(assignment),
        "float_bops": operations.float_bops,
        "bops_form": BOPS_FORM,
        "energy": energy,
        "energy_model": "" if energy is None else ENERGY_MODEL,
    }


def _measured(model, teacher, tokens, batch, seconds, backend, country, reasons) -> dict[str, Any]:
    """What needs passes of the prepared model."""
    memory = _or_reason("peak_memory", reasons, lambda: PeakMemory(model.device))
    twin = _or_reason("latency", reasons, lambda: served(model, backend))
    if twin is None:
        return {}
    found: dict[str, Any] = {"latency": measure_speed(twin, 1, tokens, seconds, backend)}
    if memory is not None:
        found["peak_memory"] = _or_reason("peak_memory", reasons, lambda: memory.of(lambda: one_pass(twin, 1, tokens)))
    found["throughput"] = measure_speed(twin, batch, tokens, seconds, backend)
    if teacher is not None:
        found["float_latency"] = measure_speed(teacher.eval(), 1, tokens, seconds)
    missing = carbon_missing(country)
    if missing is None:
        found["carbon"] = _or_reason(
            "carbon", reasons, lambda: measure_carbon(lambda: one_pass(twin, batch, tokens), batch, country)
        )
    else:
        reasons["carbon"] = missing
    return {
        **found,
        "device": device_name(model.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
