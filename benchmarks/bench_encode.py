"""Texts per second of embedders, from strings to vectors, side by side in one run.

    python benchmarks/bench_encode.py --data_dir DATA --threads 1
    python benchmarks/bench_encode.py --data_dir DATA --threads 2 --gguf all-minilm-q8_0.gguf

All encode the same sentences of STS-B, tokenizing included, and take turns, round by round. Each cell is the median of
texts per second, in brackets the median ratio of the time to `--reference` in the same round, and that of the least
CPU times. Beside it: megabytes, Spearman's correlation with STS-B's scores, and the mean cosine with the vectors of
what an embedder was made of (ours: the packed model, peers: the float one) in double precision.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import recipes_folder  # noqa: F401
import torch
from embedders import EMBEDDERS, Embedder, Setting, missing, pipelined
from embedding_study import EmbeddingStudy
from scipy.stats import spearmanr

from hf_mpq.sweep.origin import origin
from hf_mpq.tasks import get_task

COMPARED = 200
"""Texts whose vectors are compared with those in double precision."""


def main() -> None:
    """Make the embedders, time them, score them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=None, help="folder with one folder per task; default: the Hub")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--embedders", nargs="+", default=None, help="names, or parts of them; default: all")
    parser.add_argument("--reference", default="sentence-transformers fp32")
    parser.add_argument("--gguf", type=Path, default=None, help="all-MiniLM-L6-v2 for llama.cpp")
    parser.add_argument("--dev_rows", type=int, default=None, help="of STS-B that are scored; default: all")
    parser.add_argument("--out", type=Path, default=Path("out/encode"), help="folder of the rows, JSON lines")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = get_task("stsb").load(args.data_dir)["validation"]
    texts = [*dict.fromkeys([*rows["sentence1"], *rows["sentence2"]])][: args.texts]
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(EmbeddingStudy(args.data_dir), Path(folder), args.threads, args.gguf)
        embedders = made(setting, args.embedders)
        measured = [timed(embedders, texts, size, args.rounds, args.reference) for size in args.batch_sizes]
        scored = rows.select(range(len(rows) if args.dev_rows is None else min(args.dev_rows, len(rows))))
        print(f"| embedder | {' | '.join(f'{size} at a time' for size in args.batch_sizes)} | MB | STS-B | cosine |")
        print("|---" * (len(args.batch_sizes) + 4) + "|")
        found = []
        for name, embedder in embedders.items():
            own = {
                "model": "all-MiniLM-L6-v2",
                "embedder": name,
                "threads": args.threads,
                "megabytes": embedder.megabytes,
                "spearman": spearman(embedder, scored),
                "cosine": closeness(setting, embedder, texts[:COMPARED]),
            }
            found += [{**own, "batch": size, **of_size[name]} for size, of_size in zip(args.batch_sizes, measured)]
            print(line(found[-len(args.batch_sizes) :]), flush=True)
    command = " ".join(["python", "benchmarks/bench_encode.py", *sys.argv[1:]])
    told = {"command": command, "data": f"{len(texts)} sentences of STS-B's dev set", **origin()}
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"minilm-{args.threads}-threads.jsonl"
    file.write_text("".join(json.dumps({**row, **told}) + "\n" for row in found))


def line(rows: list[dict]) -> str:
    """Of the table, from the rows of one embedder."""
    cells = [
        f"{row['texts_per_second']:.0f}" + (f" ({row['ratio']:.2f}, {row['cpu_ratio']:.2f})" if "ratio" in row else "")
        for row in rows
    ]
    first = rows[0]
    told = "its own" if first["cosine"] is None else f"{first['cosine']:.5f}"
    words = [first["embedder"], *cells, f"{first['megabytes']:.1f}", f"{first['spearman']:.2f}", told]
    return f"| {' | '.join(words)} |"


def made(setting: Setting, wanted: list[str] | None) -> dict[str, Embedder]:
    """Those that can be made here; of the others it is said what they need."""
    found = {}
    for name in (one for one in EMBEDDERS if wanted is None or any(part in one for part in wanted)):
        reason = missing(name, setting)
        if reason is None:
            found[name] = EMBEDDERS[name](setting)
        else:
            print(f"not run: {name} ({reason})", flush=True)
    return found


def timed(embedders: Mapping[str, Embedder], texts: list[str], size: int, rounds: int, reference: str) -> dict:
    """Texts per second of each embedder, and ratios of its time, and of its least CPU time, to the reference's."""
    seconds = {name: [] for name in embedders}
    cpu = {name: [] for name in embedders}
    for number in range(rounds + 1):
        for name, embedder in embedders.items():
            start, used = time.perf_counter(), time.process_time()
            embedder.encode(texts, size)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - used)
    found = {}
    for name, taken in seconds.items():
        found[name] = {"texts_per_second": len(texts) / statistics.median(taken), "rounds": rounds}
        if reference in seconds:
            found[name] |= {
                "ratio": statistics.median(own / other for own, other in zip(taken, seconds[reference])),
                "cpu_ratio": min(cpu[name]) / min(cpu[reference]),
            }
    return found


def spearman(embedder: Embedder, rows: Mapping) -> float:
    """Of cosine similarities with STS-B's scores, in percent."""
    first, second = (embedder.encode(list(rows[name]), 32) for name in ("sentence1", "sentence2"))
    return 100 * spearmanr((first * second).sum(1), rows["label"]).statistic


def closeness(setting: Setting, embedder: Embedder, texts: list[str]) -> float | None:
    """Mean cosine of its vectors with those of what it was made of, in double precision; None for its own model."""
    if embedder.exact is None:
        return None
    exact = pipelined(setting, copy.deepcopy(embedder.exact).double())(texts, 32)
    return float((np.asarray(exact, np.float64) * embedder.encode(texts, 32)).sum(1).mean())


if __name__ == "__main__":
    main()
