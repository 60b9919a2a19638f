"""Predicted against measured latency of random assignments: what a budget in milliseconds rests on.

    python recipes/bench_latency_model.py --threads 2 --shape 1x128

MiniLM's shape with random weights; every layer of every assignment gets its own number of heads and of feed-forward
rows. The models run in turn; prints the median and quartiles of each, the prediction, and the error.
"""

import argparse
import copy
import statistics
import time

import torch
from transformers import AutoModel, BertConfig

import hf_mpq
from hf_mpq.core import Assignment, MatrixAssignment
from hf_mpq.cost import Latency
from hf_mpq.integrations import latency_table

SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
FAST = {"scale": "max", "two_bits": "integer"}


def main() -> None:
    """Measure the table, then the assignments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assignments", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shape", default="1x128", help="batch x tokens")
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    batch, tokens = map(int, args.shape.split("x"))
    model = AutoModel.from_config(BertConfig(**SHAPE)).eval()
    space = hf_mpq.MPQConfig(bits=8, groups="channel", quantizer_options=FAST).resolve(model)
    cost = Latency(space, table=latency_table(model.config.to_dict(), batch, tokens))
    chosen = [assignment(space, share) for share in torch.linspace(0.15, 1.0, args.assignments).tolist()]
    models = [hf_mpq.prepare(built(model, one), "cpu-int8") for one in chosen]
    taken = measured(models, torch.randint(1000, 30000, (batch, tokens)), args.rounds)
    errors = []
    print("| predicted ms | measured ms (quartiles) | error |\n|---|---|---|")
    for one, times in zip(chosen, taken):
        predicted, (low, median, high) = cost.of(one), statistics.quantiles(times, n=4)
        errors.append(predicted / median - 1)
        print(f"| {predicted:.2f} | {median:.2f} ({low:.2f} to {high:.2f}) | {errors[-1]:+.1%} |")
    print(f"\nlargest error {max(map(abs, errors)):.1%}, median {statistics.median(map(abs, errors)):.1%}")


def assignment(space, share: float) -> Assignment:
    """Around this share of heads and rows left, each layer another number of them."""
    bits = {name: torch.full((spec.layout.count,), 8) for name, spec in space.weights.items()}
    for link in space.links:
        if link.kind == "value":
            left = heads_left(share, link.heads)
            part = link.blocks[0].name.rpartition(".")[0]
            for name in (f"{part}.query", f"{part}.key", f"{part}.value"):
                keep = torch.zeros(link.heads, dtype=torch.bool)
                keep[left] = True
                bits[name][~keep.repeat_interleave(len(bits[name]) // link.heads)] = 0
        elif link.kind == "pointwise":
            count = link.blocks[0].count
            left = max(1, min(count, round(count * (share + 0.2 * float(torch.rand(())) - 0.1))))
            bits[link.blocks[0].name][torch.randperm(count)[left:]] = 0
    return Assignment({name: MatrixAssignment(tuple(one.tolist())) for name, one in bits.items()})


def heads_left(share: float, heads: int) -> torch.Tensor:
    """Some heads, at least one."""
    count = max(1, min(heads, round(heads * (share + 0.2 * float(torch.rand(())) - 0.1))))
    return torch.randperm(heads)[:count]


def built(model: torch.nn.Module, one: Assignment) -> torch.nn.Module:
    """A packed copy."""
    config = hf_mpq.MPQConfig(bits=8, groups="channel", quantizer_options=FAST, assignment=one.to_dict())
    return hf_mpq.pack(hf_mpq.quantize(copy.deepcopy(model), config))


@torch.inference_mode()
def measured(models: list, ids: torch.Tensor, rounds: int) -> list[list[float]]:
    """Milliseconds of every model, in turn."""
    taken = [[] for _ in models]
    for number in range(rounds + 2):
        for model, times in zip(models, taken):
            start = time.perf_counter()
            for _ in range(3):
                model(ids)
            if number > 1:
                times.append((time.perf_counter() - start) / 3 * 1000)
    return taken


if __name__ == "__main__":
    main()
