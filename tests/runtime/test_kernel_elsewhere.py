"""The kernel by every instruction set of this machine, and on others: cross-compiled, and run by an emulator."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

KERNEL = Path(__file__).parents[2] / "hf_mpq" / "runtime" / "native" / "kernel"
HARNESS = Path(__file__).parent / "kernel" / "agree.cpp"
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-fno-math-errno", "-pthread", "-w")
CPU = Path("/proc/cpuinfo")
ARM = ("aarch64-linux-gnu-g++", "qemu-aarch64")


def built(compiler: str, folder: Path, *flags: str) -> Path:
    program = folder / "agree"
    sources = [*sorted(KERNEL.glob("*.cpp")), HARNESS]
    subprocess.run([compiler, *FLAGS, *flags, f"-I{KERNEL}", *sources, "-o", program], check=True)
    return program


@pytest.mark.full
@pytest.mark.skipif(
    not all(map(shutil.which, ARM)), reason="apt install g++-aarch64-linux-gnu qemu-user, to run ARM's instructions"
)
def test_arm_gives_what_plain_code_gives(tmp_path):
    emulator = [ARM[1], "-cpu", "max", "-L", "/usr/aarch64-linux-gnu"]
    found = subprocess.run([*emulator, built(ARM[0], tmp_path)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert {"neon-i8mm", "neon-dot", "portable"} == {line.split()[0] for line in found.stdout.splitlines()}


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None or platform.machine() != "x86_64", reason="x86-64, and its compiler")
def test_every_instruction_set_gives_what_plain_code_gives(tmp_path):
    """Tiles are emulated where there is AVX512 beside them."""
    emulated = "avx512_vnni" in CPU.read_text()
    found = subprocess.run(
        [built("g++", tmp_path, *["-DHF_EMULATED_TILES"] * emulated)], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr
    expected = {"portable", *(["avx2"] if "avx2" in CPU.read_text() else []), *(["amx"] if emulated else [])}
    assert expected <= {line.split()[0] for line in found.stdout.splitlines()}
