"""Compress a fine-tuned MiniLM on a GLUE task without training, by our default or by a published method; one row each.

python benchmarks/compress_glue.py --data_dir DATA --task sst2 --method zeroquant
python benchmarks/compress_glue.py --data_dir DATA --task sst2 --method class-based --budget 3bits
python benchmarks/compress_glue.py --data_dir DATA --task sst2 --budget 0.15x
"""

import argparse
import json
from pathlib import Path
from time import perf_counter

import recipes_folder  # noqa: F401
from study import Results, Study

import hf_mpq
from hf_mpq.core import METHODS


def main() -> None:
    """Compress, score on the dev set, append a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=None, help="folder with one folder per task; default: the Hub")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--method", default=None, choices=list(METHODS), help="default: our own choice of parts")
    parser.add_argument("--budget", default=None, help="such as 3bits or 0.15x; not for methods of fixed bits")
    parser.add_argument("--scorer", type=json.loads, default=None, help='such as {"name": "hessian", "draws": 4}')
    parser.add_argument("--allocator", type=json.loads, default=None)
    parser.add_argument("--rounding", type=json.loads, default=None)
    parser.add_argument("--config", type=json.loads, default={}, help='further fields, such as {"embedding_bits": 8}')
    parser.add_argument("--bias_correction", type=json.loads, default=None, help="true or false")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--dev_rows", type=int, default=None)
    parser.add_argument("--models", type=Path, default=Path("out/float"), help="folder of fine-tuned float models")
    parser.add_argument("--out", type=Path, default=Path("out/compress-glue/results.jsonl"))
    parser.add_argument("--save", type=Path, default=None, help="folder for the packed model")
    args = parser.parse_args()
    study = Study(args.task, args.models, args.data_dir, dev_rows=args.dev_rows)
    config = hf_mpq.MPQConfig(method=args.method, **args.config) if args.config else None
    start = perf_counter()
    model = hf_mpq.compress(
        study.model(),
        args.budget,
        study.calibration(args.examples),
        config,
        method=args.method,
        scorer=args.scorer,
        allocator=args.allocator,
        rounding=args.rounding,
        bias_correction=args.bias_correction,
        max_examples=args.examples,
    )
    seconds, report = perf_counter() - start, hf_mpq.size_report(model)
    Results(args.out).add(
        task=args.task,
        method=args.method,
        budget=args.budget,
        config=args.config,
        scorer=args.scorer,
        allocator=args.allocator,
        rounding=args.rounding,
        bias_correction=args.bias_correction,
        **study.judge(model),
        megabytes=report.total_bytes / 1e6,
        code_bits=report.average_bits,
        seconds=seconds,
    )
    if args.save is not None:
        hf_mpq.pack(model).save_pretrained(args.save)
        study.tokenizer.save_pretrained(args.save)


if __name__ == "__main__":
    main()
