"""Predicted against measured latency of random assignments: what a budget in milliseconds rests on.

    OMP_NUM_THREADS=1 python benchmarks/bench_latency_model.py --threads 1

MiniLM's shape with random weights, candidates 0, 4 and 8: every layer of every assignment loses its own random heads
and feed-forward sub-groups, whatever is left has 4 or 8 bits. The table is measured first (or taken from its cache);
then all models run in turn, round by round. Prints the prediction, the median and the quartiles of what was measured,
and the error; the unpruned model, first, says how far the machine's speed has moved since the table was measured. The
last two columns are what one thread works, without what other processes take of the CPU (of several threads: the lowest
decile); where the two differ much, the machine was not quiet.
"""

import argparse
import copy
import statistics
import time

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertConfig

import hf_mpq
from hf_mpq.core import Assignment, MatrixAssignment, PrecisionSpace
from hf_mpq.cost import Latency
from hf_mpq.runtime.latency import latency_table
from hf_mpq.runtime.timing import clock, undisturbed

SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
FAST = {"scale": "max", "two_bits": "integer"}
RULES = {r"attention\.self": {"groups": "head"}}


def main() -> None:
    """Measure the table, then the assignments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assignments", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shape", default="1x128", help="batch x tokens")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    batch, tokens = map(int, args.shape.split("x"))
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SHAPE)).eval()
    space = hf_mpq.MPQConfig(bits=(0, 4, 8), rules=RULES, quantizer_options=FAST).resolve(model)
    chosen = [everything(space), *(random_assignment(space) for _ in range(args.assignments))]
    models = [hf_mpq.prepare(built(model, one), "cpu-int8") for one in chosen]
    cost = Latency(space, table=latency_table(space, batch, tokens, "cpu-int8"))
    taken = measured(models, torch.randint(1000, 30000, (batch, tokens)), args.rounds)
    errors, calm = [], []
    print("| heads left | rows left | predicted ms | measured ms (quartiles) | error | worked ms | error |")
    print("|---" * 7 + "|")
    for one, (times, worked) in zip(chosen, taken):
        predicted, (low, median, high) = cost.of(one), statistics.quantiles(times, n=4)
        errors.append(predicted / median - 1)
        calm.append(predicted / undisturbed(worked) - 1)
        print(
            f"| {left(space, one)} | {predicted:.2f} | {median:.2f} ({low:.2f} to {high:.2f}) | {errors[-1]:+.1%} | "
            f"{undisturbed(worked):.2f} | {calm[-1]:+.1%} |"
        )
    for words, each in (("measured median", errors[1:]), ("work", calm[1:])):
        sizes = list(map(abs, each))
        print(f"against the {words}: largest error {max(sizes):.1%}, median error {statistics.median(sizes):.1%}")


def everything(space: PrecisionSpace) -> Assignment:
    """8 bits everywhere."""
    return Assignment({name: MatrixAssignment((8,) * spec.layout.count) for name, spec in space.weights.items()})


def random_assignment(space: PrecisionSpace) -> Assignment:
    """Of every layer some heads and feed-forward sub-groups left, from few to all; 4 or 8 bits for what is left."""
    bits = {
        name: 4 + 4 * torch.randint(2, (spec.layout.count,)) if len(spec.candidates) > 1 else torch.tensor(spec.bits)
        for name, spec in space.weights.items()
    }
    for link in space.links:
        gone = torch.rand(space.weights[link.blocks[0].name].layout.count) > torch.rand(())
        gone[torch.randint(len(gone), ())] = False
        names = [block.name for block in link.blocks]
        if link.kind == "value":
            layer = names[0].rpartition(".")[0]
            names += [f"{layer}.query", f"{layer}.key"]
        for name in names if link.kind != "scores" else ():
            bits[name][gone] = 0
    return Assignment({name: MatrixAssignment(tuple(one.tolist())) for name, one in bits.items()})


def built(model: nn.Module, one: Assignment) -> nn.Module:
    """A packed copy."""
    config = hf_mpq.MPQConfig(bits=(0, 4, 8), rules=RULES, quantizer_options=FAST, assignment=one.to_dict())
    return hf_mpq.pack(hf_mpq.quantize(copy.deepcopy(model), config))


@torch.inference_mode()
def measured(
    models: list[nn.Module], ids: Tensor, rounds: int, calls: int = 3
) -> list[tuple[list[float], list[float]]]:
    """Milliseconds of passes of every model, by the wall and by `clock`: some in a row after one that does not count,
    in turn."""
    inputs, taken = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, [([], []) for _ in models]
    for _ in range(rounds):
        for model, (wall, worked) in zip(models, taken):
            model(**inputs)
            for _ in range(calls):
                start = time.perf_counter(), clock()
                model(**inputs)
                wall.append((time.perf_counter() - start[0]) * 1000)
                worked.append((clock() - start[1]) * 1000)
    return taken


def left(space: PrecisionSpace, one: Assignment) -> str:
    """Heads and feed-forward rows that are left, of all layers together."""
    count = {kind: 0 for kind in ("value", "pointwise")}
    for link in space.links:
        if link.kind in count:
            layout = space.weights[link.blocks[0].name].layout
            kept = (layout.expand(torch.tensor(one.matrices[link.blocks[0].name].bits)) > 0).sum().item()
            count[link.kind] += kept * (link.heads or 1) // (layout.shape[0] if link.heads else 1)
    return f"{count['value']} | {count['pointwise']}"


if __name__ == "__main__":
    main()
