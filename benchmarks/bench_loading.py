"""Loading a packed model beside the float one: seconds, and how much memory the process takes at its peak.

Each load runs in a fresh process; memory is the peak resident size less what was resident before loading: after loading
(a float file is only mapped then, its pages come in as they are used) and after a first forward pass at 1 x 32, or at
`--input`. Rows of cpu-native also prepare what they load. Imports do not count. Models are made here (Linux only): a
shape with random weights, whose loading does not depend on their values. `--out` keeps every round as JSON lines.

    python benchmarks/bench_loading.py --rounds 5
    python benchmarks/bench_loading.py --rounds 3 --shape modernbert-base --input 1x8192 --variants float32 "8 bits"
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, BertConfig, ModernBertConfig, PretrainedConfig

import hf_mpq

VARIANTS = {"float32": None, "8 bits": 8, "4 bits": 4, "2 bits": 2}
SHAPES = {
    "bert-base": (BertConfig, {}),
    "minilm": (
        BertConfig,
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    ),
    "modernbert-base": (ModernBertConfig, {}),
    "modernbert-small": (
        ModernBertConfig,
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 576},
    ),
}
NATIVE = "cpu-native"


def resident(field: str) -> int:
    """Bytes of a line of Linux' /proc/self/status: VmRSS is resident now, VmHWM was at the peak."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[field].split()[0])


def measure(load: Callable[[], Callable[[], object]]) -> dict[str, float]:
    """Seconds and MB of loading (`seconds`, `loaded`), and of it with a first pass (`ready`, `used`), and the seconds
    of CPU that both took (`cpu`) and the pass alone (`pass_cpu`), which other processes disturb least; to be called
    in a process of its own.

    Args:
        load: returns what makes a pass.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now, not what imports took
    before, start, cpu = resident("VmRSS"), time.perf_counter(), time.process_time()
    first_pass = load()
    seconds, loaded, there = time.perf_counter() - start, resident("VmHWM") - before, time.process_time()
    first_pass()
    ready, used, end = time.perf_counter() - start, resident("VmHWM") - before, time.process_time()
    megabytes = {"loaded": loaded / 1e6, "used": used / 1e6}
    return {"seconds": seconds, "ready": ready, "cpu": end - cpu, "pass_cpu": end - there, **megabytes}


def in_fresh_process(*arguments: str) -> dict[str, float]:
    """What a script prints last, read as JSON.

    Raises:
        RuntimeError: with its errors, where it fails.
    """
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def load_once(folder: str, backend: str | None, kind: str, batch: int, tokens: int) -> None:
    """Load, prepare where a backend is named, and print seconds and memory in MB; runs in its own process."""

    import_module(f"transformers.models.{kind}.modeling_{kind}")  # which the first model would import, as it would
    if backend is not None:
        import_module("hf_mpq.runtime")  # what prepares

    def load() -> Callable[[], object]:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        if backend is not None:
            hf_mpq.prepare(model, backend)
        return torch.no_grad()(lambda: model(input_ids=ids))

    ids = torch.arange(batch * tokens).view(batch, tokens) % 1000 + 1000

    print(json.dumps(measure(load)))


def main() -> None:
    """Make the folders, then load each of them in turn, round by round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", choices=SHAPES, default="bert-base")
    parser.add_argument("--input", type=_shape, default=(1, 32), help="batch x tokens of the first pass")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--prepared", action="store_true", help="packed models only as cpu-native")
    parser.add_argument("--out", type=Path, default=None, help="file that rows are added to")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--backend", help=argparse.SUPPRESS)
    args = parser.parse_args()
    kind, sizes = SHAPES[args.shape]
    if args.load:
        load_once(args.load, args.backend, kind.model_type, *args.input)
        return
    packed = [name for name in args.variants if VARIANTS[name] is not None]
    rows_of = {name: (name, ()) for name in args.variants if not (args.prepared and name in packed)}
    rows_of |= {f"{name}, {NATIVE}": (name, ("--backend", NATIVE)) for name in packed}
    found = {name: [] for name in rows_of}
    same = ("--shape", args.shape, "--input", "x".join(map(str, args.input)))
    with tempfile.TemporaryDirectory() as root:
        folders = made(kind(**sizes), args.variants, Path(root))
        for _ in range(args.rounds):
            for name, (variant, options) in rows_of.items():
                found[name].append(in_fresh_process(__file__, "--load", str(folders[variant]), *same, *options))
        megabytes = {name: (folder / "model.safetensors").stat().st_size / 1e6 for name, folder in folders.items()}
    for name, rows in found.items():
        print(_line(name, megabytes[rows_of[name][0]], rows, found.get("float32", rows)))
        if args.out is not None:
            _keep(args, {"variant": name, "megabytes": megabytes[rows_of[name][0]]}, rows)


def _shape(text: str) -> tuple[int, int]:
    batch, tokens = map(int, text.split("x"))
    return batch, tokens


def made(config: PretrainedConfig, variants: Sequence[str], root: Path) -> dict[str, Path]:
    """Folders of a random model, float and packed."""
    folders = {name: root / name.replace(" ", "-") for name in {"float32": None, **dict.fromkeys(variants)}}
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folders["float32"])
    for name in variants:
        bits = VARIANTS[name]
        if bits is not None:
            given = hf_mpq.MPQConfig(bits=bits, embedding_bits=max(bits, 4))
            model = AutoModelForSequenceClassification.from_pretrained(folders["float32"], quantization_config=given)
            hf_mpq.pack(model).save_pretrained(folders[name])
    return folders


def _line(name: str, size: float, rows: list[dict[str, float]], floats: list[dict[str, float]]) -> str:
    seconds, ready, loaded, used = (
        statistics.median(row[key] for row in rows) for key in ("seconds", "ready", "loaded", "used")
    )
    cpu, float_cpu = ([row["cpu"] for row in some] for some in (rows, floats))
    ratio = statistics.median(own / other for own, other in zip(cpu, float_cpu))
    spread = max(row["seconds"] for row in rows) - min(row["seconds"] for row in rows)
    least, float_least = (min(row["pass_cpu"] for row in some) for some in (rows, floats))
    return (
        f"{name:18s} file {size:6.1f} MB   load {seconds:.2f} s (spread {spread:.2f})   "
        f"load and first pass {ready:.2f} s, CPU time over float {ratio:.2f} "
        f"(of minima {min(cpu) / min(float_cpu):.2f}), of the pass {least / float_least:.2f}   "
        f"peak +{loaded:.0f} MB, after a first pass +{used:.0f} MB"
    )


def _keep(args: argparse.Namespace, row: dict, rounds: list[dict[str, float]]) -> None:
    """Add a row: of seconds medians and minima, of memory medians."""
    from hf_mpq.sweep.origin import origin  # not in the processes that are measured

    for key in ("pass_cpu", "cpu", "ready", "seconds"):
        row[f"{key}_median"] = statistics.median(one[key] for one in rounds)
        row[f"{key}_least"] = min(one[key] for one in rounds)
    row |= {key: statistics.median(one[key] for one in rounds) for key in ("loaded", "used")}
    shape = {"shape": args.shape, "input": "x".join(map(str, args.input)), "rounds": args.rounds}
    kept = {**shape, **row, "command": shlex.join(["python", *sys.argv]), **origin()}
    with args.out.open("a") as file:
        file.write(json.dumps(kept) + "\n")


if __name__ == "__main__":
    main()
