"""`hf-mpq doctor` without a folder: this machine, and machines that are not here."""

import os
from dataclasses import replace

import pytest
import torch

from hf_mpq.cli import machine as facts
from hf_mpq.cli.machine import Gpu, Machine, allowed, processor, quota, this_machine
from hf_mpq.cli.machine_checkup import machine_findings
from hf_mpq.runtime.native import built, lacking, paths

CPUS = {
    "server": (
        "Xeon",
        "avx2 avx512f avx512_vnni avx512_bf16 amx_int8 amx_bf16",
        "AMX, AVX512-VNNI, AVX2, AVX512, bfloat16",
    ),
    "laptop": ("Core", "avx2 avx_vnni", "AVX-VNNI, AVX2"),
    "old": ("Opteron", "sse2", "no instructions that the kernel has products for; none multiplies"),
    "arm": ("", "asimd asimddp i8mm bf16", "NEON i8mm, NEON dot products, bfloat16"),
}


@pytest.fixture(scope="module")
def server() -> Machine:
    """Eight cores of a server with AMX, everything installed and nothing to be said."""
    name, flags = processor(cpuinfo("server"))
    return Machine(
        system="Linux x86_64",
        python="3.12.1",
        versions={"hf_mpq": "0.1.0", "torch": "2.9.0+cpu", "transformers": "5.7.0"},
        outside=(),
        cpu=name,
        flags=flags,
        cores=8,
        usable=8,
        quota=None,
        threads=8,
        asked={},
        paths=("amx", "avx512-vnni", "avx2", "portable"),
        no_kernel=None,
        no_int8=None,
        fused="built",
        compiler=True,
        bf16=True,
    )


def cpuinfo(kind: str) -> str:
    """What Linux says of two cores."""
    name, flags, _ = CPUS[kind]
    lines = [f"Features\t: {flags}"] if kind == "arm" else [f"model name\t: {name}", f"flags\t\t: {flags}"]
    return "\n\n".join("\n".join((f"processor\t: {core}", *lines)) for core in range(2))


def found(machine: Machine) -> dict[str, tuple[str, str]]:
    return {one.check: (one.state, one.detail) for one in machine_findings(machine)}


def test_this_machine(run, run_json):
    """What it says is what the rooms themselves say."""
    told = run_json("doctor")
    assert told["sound"] and "folder" not in told
    here = {one["check"]: (one["state"], one["detail"]) for one in told["findings"]}
    assert f"torch {torch.__version__}" in here["versions"][1]
    assert here["threads"][1].startswith(f"torch uses {torch.get_num_threads()} of ")
    assert str(os.cpu_count()) in here["CPU"][1]
    assert lacking() or f"runs by {paths()[0]}" in here["cpu-native"][1]
    assert built() or "install a C++ compiler" in here["cpu-native"][1]
    assert "this machine is sound" in run("doctor").stdout


@pytest.mark.parametrize("path", ["avx-vnni", "avx2"])
def test_few_bits_are_faster_by_avx2_alone(path, server):
    machine = replace(server, paths=(path, "portable"), flags=frozenset({"avx2"}))
    state, detail = found(machine)["cpu-native"]
    assert state == "ok" and ("five bits or fewer" in detail) == (path == "avx2")


def test_nothing_is_to_be_done_on_a_good_machine(server):
    assert {state for state, _ in found(server).values()} == {"ok"}


@pytest.mark.parametrize("kind", CPUS)
def test_instructions_are_named(kind, server):
    name, flags = processor(cpuinfo(kind))
    assert name == CPUS[kind][0] and CPUS[kind][2] in found(replace(server, flags=flags))["CPU"][1]


def test_a_system_that_tells_nothing_of_its_cpu(server):
    assert processor("") == ("", frozenset())
    assert "does not say" in found(replace(server, flags=frozenset()))["CPU"][1]


SIMULATED = {
    "no kernel": ({"no_kernel": "it was not built", "paths": ()}, "cpu-native", "note", "it was not built"),
    "tiles are not allowed": ({"paths": ("avx512-vnni",)}, "cpu-native", "note", "the CPU has AMX, which the system"),
    "plain code": ({"paths": ("portable",)}, "cpu-native", "note", "hf-mpq bench"),
    "no sums": ({"no_int8": "this CPU has no VNNI"}, "cpu-int8", "note", "cpu-native has sums of its own"),
    "no integers at all": ({"no_int8": "no", "no_kernel": "no", "paths": ()}, "cpu-int8", "note", "take cpu-float"),
    "no compiler": ({"fused": "no compiler"}, "cpu-int8", "note", "install g++, or name one in CXX"),
    "not built": ({"fused": "not built"}, "cpu-int8", "ok", "at their first use"),
    "container": (
        {"quota": 1.5},
        "threads",
        "note",
        "1.5 of 8 cores), which get in each other's way: set OMP_NUM_THREADS=2",
    ),
    "pinned": ({"usable": 4}, "threads", "note", "torch uses 8 of 4"),
    "few threads": (
        {"threads": 1, "asked": {"OMP_NUM_THREADS": "1"}},
        "threads",
        "note",
        "because of OMP_NUM_THREADS=1",
    ),
    "hyperthreads": ({"threads": 4}, "threads", "ok", "torch uses 4 of 8"),
    "driver alone": ({"driver": True}, "GPU", "note", "2.9.0+cpu is a build without GPU support"),
    "hidden": ({"driver": True, "cuda": "12.8"}, "GPU", "note", "look at CUDA_VISIBLE_DEVICES"),
    "old GPU": ({"gpus": (Gpu("P100", (6, 0), 16.0),)}, "GPU", "note", "which need 7.5; cuda-float runs"),
    "T4": ({"gpus": (Gpu("T4", (7, 5), 16.0),)}, "GPU", "ok", "without the fused kernels"),
    "no triton": ({"gpus": (Gpu("H200", (9, 0), 141.0),)}, "GPU", "note", "pip install triton"),
    "H200": (
        {"gpus": (Gpu("H200", (9, 0), 141.0),), "triton": True},
        "GPU",
        "ok",
        "H200 (141 GB); integer products and",
    ),
    "extras": ({"missing": {"train": ("scipy",), "ray": ("ray",)}}, "extras", "note", "pip install 'hf_mpq[train]'"),
    "offline": ({"offline": True}, "Hub", "note", "HF_HUB_OFFLINE"),
    "read only": ({"unwritable": ("HF_MPQ_CACHE (/x)",)}, "caches", "note", "HF_MPQ_CACHE (/x) cannot be written"),
    "old library": ({"outside": ("torch>=2.7",)}, "versions", "broken", 'pip install "torch>=2.7"'),
}


@pytest.mark.parametrize(("changes", "check", "state", "words"), SIMULATED.values(), ids=SIMULATED)
def test_what_would_help_is_said(changes, check, state, words, server):
    seen = found(replace(server, **changes))
    assert seen[check][0] == state and words in seen[check][1], seen[check]


def test_what_is_broken_is_in_the_exit_code(server, run, monkeypatch):
    monkeypatch.setattr("hf_mpq.cli.commands.doctor.this_machine", lambda: replace(server, outside=("torch>=99",)))
    assert "this machine is broken" in run("doctor", code=1).stdout


def test_quotas_of_containers(server):
    assert quota("150000 100000", "", "") == 1.5 and quota("max 100000", "", "") is None
    assert quota("", "50000", "100000") == 0.5 and quota("", "-1", "100000") is None and quota("", "", "") is None
    assert allowed(replace(server, quota=0.5)) == 1 and allowed(replace(server, quota=99.0)) == 8


def test_requirements_and_folders_are_looked_at(monkeypatch, tmp_path):
    monkeypatch.setattr(
        facts, "requires", lambda name: ["torch>=99", "numpy>=1", 'ray>=99; extra == "ray"', "nowhere>1"]
    )
    assert facts._outside() == ("torch>=99", "nowhere>1")
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_MPQ_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "new" / "folder"))
    assert this_machine().unwritable == (f"HF_MPQ_CACHE ({tmp_path / 'file' / 'cache'})",)
    assert not (tmp_path / "new").exists()
