"""Latency of one fine-tuned classifier in every engine, measured side by side in one run.

    python benchmarks/bench_inference.py --data_dir DATA --task mrpc --threads 2
    python benchmarks/bench_inference.py --shape bert-base --shapes 1x32 1x128 --no-accuracy

Engines take turns, round by round, after calls to warm up, and rest in between, on as many cores as they have threads.
Each cell is the median in milliseconds, and in brackets the median ratio to `--reference` of the same round with its
quartiles. Every int8 engine that needs ranges is calibrated on the same real sentences. The score is each engine's own
on the dev set, and beside it stand the labels, in percent, that are those of what it was made of in double precision:
of the packed model for our own engines and exports, of the float one for the peers. The floor is what the encoder's
integer products take alone, in the same rounds; beside it stands what reading their weights takes. Loading is measured
in fresh processes (Linux only), imports aside. `--out` gets the tables, and `results.jsonl` a row for each engine and
shape, which keep_rows.py puts among the committed ones; a run of the same name replaces its rows.
"""

import argparse
import copy
import json
import os
import re
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import recipes_folder  # noqa: F401
import torch
from engines import ENGINES, FLOOR, INPUTS, Engine, Setting, encoder_layers, missing
from loaders import Predict
from study import Study, agreement
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertConfig, EvalPrediction

import hf_mpq
from hf_mpq.sweep import origin
from hf_mpq.tasks import Task

LEAST_SECONDS = 0.03
"""Short calls are repeated until a measurement lasts so long."""
REST_SECONDS = 0.05
"""Before each turn: the threads of the engine before it spin for a while."""
STREAM = 2**26
"""Floats that are read to measure memory: more than any cache holds."""
PEERS = ("openvino", "nncf", "onnxruntime", "ctranslate2")
LOADED_AS = {
    "seconds": "load_seconds",
    "ready": "ready_seconds",
    "loaded": "peak_loaded_megabytes",
    "used": "peak_ready_megabytes",
}
LOADED = {"seconds": "load s", "ready": "load and first pass s", "loaded": "peak MB", "used": "peak MB with first pass"}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}


def main(argv: Sequence[str] | None = None) -> None:
    """Make the engines, time them, score them, load them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=None, help="folder with one folder per task; default: the Hub")
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--models", type=Path, default=Path("out/float"), help="folder of fine-tuned float models")
    parser.add_argument("--shape", choices=("minilm", "bert-base"), default="minilm", help="bert-base: random weights")
    shapes = ["1x8", "1x16", "1x32", "1x128", "1x512", "8x128", "32x128", "16x8-128"]
    parser.add_argument("--shapes", nargs="+", default=shapes, help="batch x tokens; 16x8-128: rows of 8 to 128")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--engines", nargs="+", default=None, help="names, or parts of them; default: all")
    parser.add_argument("--reference", default="openvino nncf int8")
    parser.add_argument("--bits", type=int, default=8, help="of our weights")
    parser.add_argument("--pruned", type=Path, default=None, help="packed folder of recipes/train_pruned.py")
    parser.add_argument("--accuracy", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--loads", type=int, default=3, help="fresh processes that load each engine; 0 for none")
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help="threads to cores")
    parser.add_argument(
        "--run", default="", help="name of the table that the rows belong to; default: shape and threads"
    )
    parser.add_argument("--out", type=Path, default=Path("out/inference"))
    args = parser.parse_args(argv)
    if args.pin:
        pin(args.threads)
    torch.set_num_threads(args.threads)
    study = Study(args.task, args.models, args.data_dir)
    with tempfile.TemporaryDirectory() as folder:
        setting = _setting(args, study, Path(folder))
        engines = _engines(args, setting)
        rows = {name: {"megabytes": engine.megabytes} for name, engine in engines.items()}
        for shape in args.shapes:
            for name, found in _measure(engines, shape, setting, args).items():
                rows[name][shape] = found
                print(f"{shape:8} {name:36} {_cell(found)}", flush=True)
        if args.accuracy and args.shape == "minilm":
            exact = Exact(setting, study)
            for name, engine in engines.items():
                rows[name] |= {} if name == FLOOR else _accuracy(engine, exact, study, study.task)
        for name, found in _loads(engines, args.loads).items():
            rows[name]["load"] = found
        if FLOOR in rows:
            rows[FLOOR] |= _memory(setting)
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"{args.shape}-{args.threads}-threads"
    _keep(args.out / "results.jsonl", list(_lines(rows, args, sys.argv[1:] if argv is None else argv)))
    text = "\n\n".join(part for part in (_table(rows, args.shapes), _memory_line(rows), _load_table(rows)) if part)
    (args.out / f"{name}.md").write_text(text + "\n")
    print(text)


def _lines(rows: Mapping[str, Mapping], args: argparse.Namespace, argv: Sequence[str]) -> Iterator[dict]:
    """A row for each engine and shape."""
    minilm = args.shape == "minilm"
    common = {
        "run": args.run or f"{'MiniLM' if minilm else 'BERT-base'}, {args.threads} thread(s)",
        "model": f"MiniLM fine-tuned on {args.task}" if minilm else "BERT-base's shape, random weights",
        "threads": args.threads,
        "bits": args.bits,
        "rounds": args.rounds,
        "command": shlex.join(["python", "benchmarks/bench_inference.py", *argv]),
        **origin(),
    }
    common["versions"] += "".join(f", {name} {version}" for name, version in _versions())
    for engine, row in rows.items():
        measures = {name: row[name] for name in ("megabytes", "score", "labels") if not np.isnan(row.get(name, np.nan))}
        loaded = {LOADED_AS[name]: value for name, value in row.get("load", {}).items()}
        for shape in args.shapes:
            first, third = row[shape].get("ratio_quartiles", (None, None))
            times = {
                "milliseconds": float(f"{row[shape]['ms']:.3g}"),
                "ratio": row[shape].get("ratio"),
                "ratio_quartile_1": first,
                "ratio_quartile_3": third,
            }
            yield {**common, "engine": engine, "shape": shape, **times, **measures, **loaded}


def _versions() -> Iterator[tuple[str, str]]:
    """Of the peers that are installed."""
    for name in PEERS:
        with suppress(PackageNotFoundError):
            yield name, version(name)


def _keep(file: Path, rows: list[dict]) -> None:
    """Beside the rows that are there, in place of those of the same run, engine and shape."""
    names = "run", "engine", "shape"
    known = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    new = {tuple(row[name] for name in names) for row in rows}
    rows = [row for row in known if tuple(row[name] for name in names) not in new] + rows
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def pin(threads: int) -> None:
    """Keep this process, and those that it starts, on as many cores, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0), key=_preference)[:threads]
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)
    print(f"on cores {', '.join(map(str, cores))}", flush=True)


def _preference(cpu: int) -> tuple[bool, int]:
    """First what is a core of its own, then the second threads of cores."""
    file = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    first = re.match(r"\d+", file.read_text()) if file.exists() else None
    return first is not None and int(first[0]) != cpu, cpu


def _setting(args: argparse.Namespace, study: Study, folder: Path) -> Setting:
    if args.shape == "minilm":
        model = study.model()
    else:
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(BertConfig(**BASE)).eval()
    rows = study.calibration(128)
    batches = [_batch(rows[start : start + 16], study) for start in range(0, len(rows), 16)]
    per_token = hf_mpq.quantize(copy.deepcopy(model), hf_mpq.MPQConfig(bits=args.bits))
    fixed = hf_mpq.quantize(copy.deepcopy(model), hf_mpq.MPQConfig(bits=args.bits, activation="static"))
    hf_mpq.nn.calibrate_activations(fixed, batches)
    pruned = None if args.pruned is None else AutoModelForSequenceClassification.from_pretrained(args.pruned)
    return Setting(model, hf_mpq.pack(fixed), hf_mpq.pack(per_token), pruned, batches, folder, args.threads)


def _batch(rows: Mapping, study: Study) -> dict[str, Tensor]:
    padded = study.tokenizer.pad({name: rows[name] for name in INPUTS}, return_tensors="pt")
    return {name: padded[name] for name in INPUTS}


def _engines(args: argparse.Namespace, setting: Setting) -> dict[str, Engine]:
    wanted = [name for name in ENGINES if args.engines is None or any(part in name for part in args.engines)]
    found = {}
    for name in wanted:
        reason = missing(name) or ("give --pruned" if "pruned" in name and setting.pruned is None else None)
        if reason is not None:
            print(f"not run: {name} ({reason})", flush=True)
            continue
        start = time.perf_counter()
        found[name] = ENGINES[name](setting)
        print(f"made: {name} in {time.perf_counter() - start:.1f} s", flush=True)
    return found


def _measure(engines: Mapping[str, Engine], shape: str, setting: Setting, args: argparse.Namespace) -> dict[str, dict]:
    """Milliseconds of one call, and ratios to the reference, for each engine."""
    batch = _random_batch(shape, setting.model.config.vocab_size)
    calls = {name: _calls(engine, batch) for name, engine in engines.items()}
    taken = {name: [] for name in engines}
    for _ in range(args.rounds):
        for name, engine in engines.items():
            time.sleep(REST_SECONDS)
            engine.predict(batch)
            start = time.perf_counter()
            for _ in range(calls[name]):
                engine.predict(batch)
            taken[name].append((time.perf_counter() - start) / calls[name] * 1000)
    reference = taken.get(args.reference)
    return {name: _summary(times, reference) for name, times in taken.items()}


def _random_batch(shape: str, words: int) -> dict[str, Tensor]:
    """Of `rows x tokens`, or of rows that are as long as evenly spaced between `least-most` tokens, and padded."""
    rows, least, most = map(int, re.fullmatch(r"(\d+)x(\d+)(?:-(\d+))?", shape).groups(default=shape.split("x")[1]))
    ids = torch.randint(1000, words, (rows, most), generator=torch.Generator().manual_seed(0))
    lengths = torch.linspace(least, most, rows).round()
    mask = (torch.arange(most) < lengths.unsqueeze(1)).long()
    return dict(zip(INPUTS, (ids * mask, mask, torch.zeros_like(ids))))


def _calls(engine: Engine, batch: Mapping[str, Tensor]) -> int:
    """After two calls to warm up, how many make a measurement long enough."""
    engine.predict(batch)
    engine.predict(batch)
    start = time.perf_counter()
    engine.predict(batch)
    return max(1, round(LEAST_SECONDS / (time.perf_counter() - start)))


def _summary(times: list[float], reference: list[float] | None) -> dict:
    found = {"ms": statistics.median(times), "quartiles": _quartiles(times)}
    if reference is not None:
        ratios = [own / other for own, other in zip(times, reference)]
        found |= {"ratio": statistics.median(ratios), "ratio_quartiles": _quartiles(ratios)}
    return found


def _quartiles(values: list[float]) -> list[float]:
    """The first and the third."""
    return statistics.quantiles(values, n=4)[::2] if len(values) > 1 else values * 2


def _loads(engines: Mapping[str, Engine], rounds: int) -> dict[str, dict[str, float]]:
    """Medians over fresh processes, for each engine that comes out of files."""
    loadings = {name: engine.loading for name, engine in engines.items() if engine.loading is not None}
    found = {name: [] for name in loadings}
    for _ in range(rounds if Path("/proc/self/status").exists() else 0):
        for name, loading in loadings.items():
            try:
                found[name].append(loading.measured())
            except RuntimeError as error:
                print(f"not loaded: {name} ({error})", flush=True)
    return {
        name: {key: statistics.median(row[key] for row in rows) for key in LOADED}
        for name, rows in found.items()
        if rows
    }


def _memory(setting: Setting) -> dict[str, float]:
    """GB/s that all threads read together, and the MB of int8 weights that the floor reads."""
    x, taken = torch.ones(STREAM), []
    for _ in range(7):
        start = time.perf_counter()
        torch.dot(x, x)
        taken.append(time.perf_counter() - start)
    weights = sum(layer.in_features * layer.out_features for layer in encoder_layers(setting))
    return {"gigabytes_per_second": 4 * STREAM / min(taken) / 1e9, "weights": weights / 1e6}


class Exact:
    """Logits of the dev rows in double precision, by the model of the setting."""

    def __init__(self, setting: Setting, study: Study):
        self.setting, self.study = setting, study
        self._known: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._known:
            model = copy.deepcopy(getattr(self.setting, name)).double().eval()
            with torch.inference_mode():
                self._known[name] = _logits(lambda batch: model(**batch).logits.numpy(), self.study)
        return self._known[name]


def _logits(predict: Predict, study: Study) -> np.ndarray:
    """Of the dev rows, `(rows, classes)`."""
    starts = range(0, len(study.dev), 16)
    return np.concatenate([predict(_batch(study.dev[start : start + 16], study)) for start in starts])


def _accuracy(engine: Engine, exact: Exact, study: Study, task: Task) -> dict[str, float]:
    """Headline metric on the dev rows, and labels that are as in double precision, both in percent."""
    logits = _logits(engine.predict, study)
    metrics = task.compute_metrics(EvalPrediction(logits, np.array(study.dev["labels"])))
    return {"score": 100 * metrics[task.headline], "labels": 100 * agreement(exact[engine.of], logits)}


def _cell(found: Mapping) -> str:
    text = f"{found['ms']:.3g}"
    if "ratio" in found:
        low, high = found["ratio_quartiles"]
        text += f" ({found['ratio']:.2f}, {low:.2f} to {high:.2f})"
    return text


def _table(rows: Mapping[str, Mapping], shapes: list[str]) -> str:
    lines = ["| engine | " + " | ".join(shapes) + " | MB | score | labels |", "|---" * (len(shapes) + 4) + "|"]
    for name, row in rows.items():
        size = row["megabytes"]
        accuracy = [f"{row[key]:.2f}" if key in row else "" for key in ("score", "labels")]
        cells = [_cell(row[shape]) for shape in shapes]
        size = "" if np.isnan(size) else f"{size:.1f}"
        lines.append(f"| {name} | {' | '.join([*cells, size, *accuracy])} |")
    return "\n".join(lines)


def _memory_line(rows: Mapping[str, Mapping]) -> str:
    if FLOOR not in rows:
        return ""
    speed, weights = rows[FLOOR]["gigabytes_per_second"], rows[FLOOR]["weights"]
    return (
        f"Memory is read at {speed:.1f} GB/s: at that speed the encoder's {weights:.1f} MB of int8 weights take "
        f"{weights / speed:.2f} ms, where no cache holds them."
    )


def _load_table(rows: Mapping[str, Mapping]) -> str:
    loaded = {name: row["load"] for name, row in rows.items() if "load" in row}
    lines = ["| engine | " + " | ".join(LOADED.values()) + " |", "|---" * (len(LOADED) + 1) + "|"]
    for name, found in loaded.items():
        cells = [f"{found[key]:.2f}" if key in ("seconds", "ready") else f"{found[key]:.0f}" for key in LOADED]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) if loaded else ""


if __name__ == "__main__":
    main()
