"""The examination of a machine behind `hf-mpq doctor`: what it can do, and what would make it faster."""

from collections.abc import Iterator

from .findings import BROKEN, NOTE, OK, Finding
from .machine import Machine, allowed

BYTES = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
    "i8mm": "NEON i8mm",
    "asimddp": "NEON dot products",
}
"""Features by which the kernel multiplies integers, with their usual names, the newest first."""
FOURS = {"amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp"}
"""Those that multiply four bytes and add the products in one instruction."""
OTHERS = {"avx512f": "AVX512", "avx512_bf16": "bfloat16", "amx_bf16": "bfloat16 in AMX", "bf16": "bfloat16"}
JOURNEYS = {
    "train": "compress and MPQTrainer",
    "report": "size reports, pictures and cards",
    "tasks": "GLUE, SQuAD and CoNLL-2003",
    "onnx": "export to ONNX",
    "openvino": "export to OpenVINO",
}
"""Of the extras, those without which much is missing; the others are named by the error of what needs them."""


def machine_findings(machine: Machine) -> Iterator[Finding]:
    """From the versions to the folders that keep what is measured; notes say what would help."""
    yield _versions(machine)
    yield _cpu(machine)
    yield _kernel(machine)
    yield _int8(machine)
    yield _threads(machine)
    yield _gpu(machine)
    yield _extras(machine)
    if machine.offline:
        yield Finding("Hub", NOTE, "HF_HUB_OFFLINE is set: names on the Hub are looked up in the local cache only")
    if machine.unwritable:
        places = " and ".join(machine.unwritable)
        what = "measured times and built layers are not kept, and each process makes them anew"
        yield Finding("caches", NOTE, f"{places} cannot be written, so that {what}: set it to a folder that can be")


def _versions(machine: Machine) -> Finding:
    found = ", ".join(f"{name} {number or 'of a folder'}" for name, number in machine.versions.items())
    words = f"{machine.system}, Python {machine.python}, {found}"
    if machine.outside:
        needed = " ".join(f'"{one}"' for one in machine.outside)
        return Finding("versions", BROKEN, f"{words}; not what hf_mpq needs: pip install {needed}")
    return Finding("versions", OK, words)


def _cpu(machine: Machine) -> Finding:
    names = [name for flag, name in BYTES.items() if flag in machine.flags]
    names += dict.fromkeys(name for flag, name in OTHERS.items() if flag in machine.flags)
    words = f"{machine.cpu}, {machine.usable} of {machine.cores} cores for this process"
    if not machine.flags:
        return Finding("CPU", OK, f"{words}; the system does not say which instructions it has")
    words += f"; {', '.join(names) if names else 'no instructions that the kernel has products for'}"
    if not FOURS & machine.flags:
        words += (
            "; none multiplies and adds four bytes at once, as AVX-VNNI, AVX512-VNNI, AMX and NEON's dot products do"
        )
    return Finding("CPU", OK, words)


def _kernel(machine: Machine) -> Finding:
    """Of `cpu-native`: that it is here, and by what it runs."""
    if machine.no_kernel is not None:
        return Finding("cpu-native", NOTE, f"whole encoders do not run in one call: {machine.no_kernel}")
    path = machine.paths[0]
    if path == "portable":
        words = "the kernel is here and runs by plain code, which has no vector instructions for this CPU"
        return Finding("cpu-native", NOTE, f"{words}: compare with backend='cpu-float' (hf-mpq bench)")
    words = f"the kernel is here and runs by {path}"
    if "amx_int8" in machine.flags and path != "amx":
        return Finding(
            "cpu-native", NOTE, f"{words}; the CPU has AMX, which the system or its virtual machine does not let it use"
        )
    if path == "avx2":
        words += "; weights of five bits or fewer are multiplied faster than others there"
    return Finding("cpu-native", OK, words)


def _int8(machine: Machine) -> Finding:
    if machine.no_int8 is not None:
        instead = "take cpu-float" if machine.no_kernel else "cpu-native has sums of its own, which are right"
        return Finding("cpu-int8", NOTE, f"{machine.no_int8}; {instead}")
    states = {
        "built": (OK, "oneDNN multiplies integers; fused layers are built"),
        "not built": (OK, "oneDNN multiplies integers; fused layers are built at their first use, in about a minute"),
        "no compiler": (
            NOTE,
            "oneDNN multiplies integers, but fused layers need a C++ compiler: install g++, or name one in CXX",
        ),
    }
    return Finding("cpu-int8", *states[machine.fused])


def _threads(machine: Machine) -> Finding:
    most = allowed(machine)
    words = f"torch uses {machine.threads} of {most} that this process can keep busy"
    if machine.quota is not None and machine.quota < machine.usable:
        words += f" (the container has {machine.quota:g} of {machine.usable} cores)"
    asked = ", ".join(f"{name}={value}" for name, value in machine.asked.items())
    if machine.threads > most:
        return Finding("threads", NOTE, f"{words}, which get in each other's way: set OMP_NUM_THREADS={most}")
    if machine.threads < most and asked:
        return Finding("threads", NOTE, f"{words}, because of {asked}: without it a single request may be faster")
    return Finding("threads", OK, f"{words}{f' ({asked})' if asked else ''}")


def _gpu(machine: Machine) -> Finding:
    from ..runtime.cuda.support import LEAST_CAPABILITY, TRITON_CAPABILITY

    if not machine.gpus and machine.driver:
        if machine.cuda is None:
            why = f"torch {machine.versions.get('torch')} is a build without GPU support: install one with it"
        else:
            why = f"torch, built for {machine.cuda}, finds no GPU: look at CUDA_VISIBLE_DEVICES, or renew the driver"
        return Finding("GPU", NOTE, f"a driver is here, but {why}")
    if not machine.gpus:
        return Finding("GPU", OK, "none; all runs on the CPU")
    best = max(machine.gpus, key=lambda one: one.capability)
    words = ", ".join(f"{one.name} ({one.gigabytes:.0f} GB)" for one in machine.gpus)
    if best.capability < LEAST_CAPABILITY:
        return Finding("GPU", NOTE, f"{words}: too old for integer products, which need 7.5; cuda-float runs")
    if best.capability < TRITON_CAPABILITY:
        return Finding("GPU", OK, f"{words}; integer products, without the fused kernels, which need 8.0")
    if not machine.triton:
        return Finding("GPU", NOTE, f"{words}; integer products, but none of the fused kernels: pip install triton")
    return Finding("GPU", OK, f"{words}; integer products and fused kernels")


def _extras(machine: Machine) -> Finding:
    lacking = {extra: what for extra, what in JOURNEYS.items() if extra in machine.missing}
    if not lacking:
        return Finding("extras", OK, "what compress, training, reports, tasks and the usual exports need is installed")
    words = ", ".join(f"{what} ({extra}: {', '.join(machine.missing[extra])})" for extra, what in lacking.items())
    return Finding("extras", NOTE, f"not installed for {words}: pip install 'hf_mpq[{','.join(lacking)}]'")
