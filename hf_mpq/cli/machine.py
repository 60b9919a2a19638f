"""What this machine has that hf_mpq can use."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from math import ceil
from pathlib import Path

CPU, DRIVER = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/version")
QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
"""Of a container: version 2 of control groups, and version 1."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its name, compute capability (`(9, 0)`), and memory in GB."""

    name: str
    capability: tuple[int, int]
    gigabytes: float


@dataclass(frozen=True)
class Machine:
    """What decides how fast hf_mpq is here, and what of it runs.

    Attributes:
        system, python: names and versions.
        versions: of hf_mpq and of what it stands on; None where the package's metadata are not there.
        outside: requirements of hf_mpq that are not met, as `"transformers>=5.6.2,<6"`.
        cpu, flags: its name, and the features that the system reports.
        cores, usable: of the machine, and those that this process may use.
        quota: cores that a container may keep busy; None where it has no limit.
        threads, asked: of torch, and environment variables that set them.
        paths: sets of instructions that the native kernel can use, fastest first.
        no_kernel, no_int8: why not; None where it runs.
        fused, compiler: state of the fused layers of `cpu-int8`, and whether a C++ compiler is there.
        bf16: whether the CPU multiplies bfloat16.
        gpus: that torch can use.
        cuda: the version of CUDA that torch was built with; None for a build without it.
        driver: whether the driver of a GPU is there.
        triton: whether Triton is installed.
        missing: extra to the modules of it that are not installed.
        offline: whether the Hub is not asked for models.
        unwritable: folders that keep what is measured or built, and cannot be written.
    """

    system: str
    python: str
    versions: Mapping[str, str | None]
    outside: tuple[str, ...]
    cpu: str
    flags: frozenset[str]
    cores: int
    usable: int
    quota: float | None
    threads: int
    asked: Mapping[str, str]
    paths: tuple[str, ...]
    no_kernel: str | None
    no_int8: str | None
    fused: str
    compiler: bool
    bf16: bool
    gpus: tuple[Gpu, ...] = ()
    cuda: str | None = None
    driver: bool = False
    triton: bool = False
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    offline: bool = False
    unwritable: tuple[str, ...] = ()


def this_machine() -> Machine:
    """As it is now; loads the kernel, and builds nothing."""
    from importlib.util import find_spec

    import torch
    from huggingface_hub.constants import HF_HUB_OFFLINE

    from .._extras import EXTRAS
    from ..nn.bfloat16 import cpu_multiplies_bf16
    from ..runtime.int8 import unsupported
    from ..runtime.int8.build import state
    from ..runtime.int8.compiler import compiler
    from ..runtime.native import lacking, paths

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    no_kernel = lacking()
    name, flags = processor(CPU.read_text() if CPU.exists() else "")
    missing = {extra: tuple(one for one in modules if find_spec(one) is None) for extra, modules in EXTRAS.items()}
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={one: _version(one) for one in ("hf_mpq", "torch", "transformers")},
        outside=_outside(),
        cpu=name or platform.processor() or "a CPU without a name",
        flags=flags,
        cores=os.cpu_count() or 1,
        usable=usable,
        quota=quota(*(path.read_text() if path.exists() else "" for path in (*QUOTAS, _period()))),
        threads=torch.get_num_threads(),
        asked={one: os.environ[one] for one in THREADS if one in os.environ},
        paths=() if no_kernel else tuple(paths()),
        no_kernel=no_kernel,
        no_int8=unsupported(),
        fused=state(),
        compiler=compiler() is not None,
        bf16=cpu_multiplies_bf16(),
        gpus=tuple(map(_gpu, range(torch.cuda.device_count()))) if torch.cuda.is_available() else (),
        cuda=torch.version.cuda or torch.version.hip,
        driver=DRIVER.exists() or Path("/dev/kfd").exists(),
        triton=find_spec("triton") is not None,
        missing={extra: lacks for extra, lacks in missing.items() if lacks},
        offline=bool(HF_HUB_OFFLINE),
        unwritable=_unwritable(),
    )


def processor(text: str) -> tuple[str, frozenset[str]]:
    """Name and features of the CPU that a /proc/cpuinfo tells of; empty where it tells nothing."""
    fields = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", ""), frozenset((fields.get("flags") or fields.get("Features") or "").split())


def quota(newer: str, older: str, period: str) -> float | None:
    """Cores that a control group may keep busy, from the contents of its files; None where nothing limits them."""
    words = newer.split() or [older.strip(), period.strip()]
    try:
        most, every = float(words[0]), float(words[1])
    except (ValueError, IndexError):
        return None
    return most / every if most > 0 and every > 0 else None


def allowed(machine: Machine) -> int:
    """Threads that this process can keep busy."""
    return machine.usable if machine.quota is None else max(min(machine.usable, ceil(machine.quota)), 1)


def _period() -> Path:
    return QUOTAS[1].with_name("cpu.cfs_period_us")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _outside() -> tuple[str, ...]:
    """Requirements of the package itself that what is installed does not meet."""
    from packaging.requirements import Requirement

    try:
        found = [Requirement(line) for line in requires("hf_mpq") or ()]
    except PackageNotFoundError:
        return ()
    own = [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]
    here = {one.name: _version(one.name) for one in own}
    return tuple(
        f"{one.name}{one.specifier}"
        for one in own
        if here[one.name] is None or not one.specifier.contains(here[one.name], prereleases=True)
    )


def _gpu(number: int) -> Gpu:
    import torch

    found = torch.cuda.get_device_properties(number)
    return Gpu(found.name, (found.major, found.minor), found.total_memory / 1e9)


def _unwritable() -> tuple[str, ...]:
    """Of the folders that keep measured times and the fused layers, those that neither are there nor can be made."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    kept = {
        "HF_MPQ_CACHE": os.environ.get("HF_MPQ_CACHE", "~/.cache/hf_mpq"),
        "TORCH_EXTENSIONS_DIR": os.environ.get("TORCH_EXTENSIONS_DIR") or f"{caches}/torch_extensions",
    }
    return tuple(f"{name} ({place})" for name, place in kept.items() if not _can_be_written(place))


def _can_be_written(place: str) -> bool:
    try:
        folder = Path(place).expanduser().absolute()
    except RuntimeError:  # there is no home
        return False
    there = next(one for one in (folder, *folder.parents) if os.path.exists(one))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
