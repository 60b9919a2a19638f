"""Gap, time and use of the budget of the allocators, for thousands of sub-groups.

Synthetic scores (falling by four with each bit, sub-groups of very different weight) on BERT-base's own space; 10^3,
10^4 and 10^5 sub-groups are 14, 139 and one for each row of 72 matrices, with embeddings on top of the last. The gap is
to the Lagrangian's bound of the same round. Prints a markdown table: median and range over the rounds, each with other
scores.

    python benchmarks/bench_allocation.py --rounds 5 --budget encoder:0.08x
"""

import argparse
import statistics
import time

import numpy as np
import torch
from transformers import AutoModel, BertConfig

from hf_mpq import MPQConfig
from hf_mpq.core import Budget, PrecisionSpace
from hf_mpq.cost import StoredSize, measure
from hf_mpq.search import ALLOCATORS
from hf_mpq.search.allocators import solve

GROUPS = {1_000: 14, 10_000: 139, 100_000: "channel"}
OPTIONS = {"lagrangian": {}, "greedy": {"direction": "down"}, "milp": {}, "uniform": {"fraction": True}}


def space_of(groups: int | str, bits: tuple[int, ...]) -> PrecisionSpace:
    """BERT-base with `groups` sub-groups in each encoder matrix; position embeddings too where each row is one."""
    with torch.device("meta"):
        model = AutoModel.from_config(BertConfig())
    rules = {"embeddings.word_embeddings": {"bits": bits, "groups": 17_000}} if groups == "channel" else {}
    return MPQConfig(bits=bits, groups=groups, rules=rules).resolve(model)


def synthetic_scores(space: PrecisionSpace, seed: int) -> dict[str, np.ndarray]:
    """Lognormal weights of sub-groups times an error that falls by about four with each bit."""
    random, scores = np.random.default_rng(seed), {}
    for name, spec in space.weights.items():
        if spec.bits is not None:
            continue
        count, choices = spec.layout.count, len(spec.candidates)
        weight = random.lognormal(0, 1.5, (count, 1)) * np.array(spec.layout.numel)[:, None]
        scores[name] = weight * 4.0 ** -np.array(spec.candidates) * random.lognormal(0, 0.2, (count, choices))
    return scores


def total(space: PrecisionSpace, scores: dict[str, np.ndarray], assignment) -> float:
    """Summed scores of an assignment."""
    columns = {name: np.searchsorted(space.weights[name].candidates, assignment.matrices[name].bits) for name in scores}
    return float(sum(np.take_along_axis(scores[name], columns[name][:, None], 1).sum() for name in scores))


def row(space: PrecisionSpace, name: str, budget: str, rounds: int, time_limit: float) -> list[str]:
    """One allocator's cells: gap, milliseconds, and share of the budget that is left."""
    cost = StoredSize(space)
    measured, limit = measure(cost, Budget.parse(budget))
    options = OPTIONS[name] | ({"time_limit": time_limit} if name == "milp" else {})
    gaps, times, left = [], [], []
    for seed in range(rounds):
        scores = synthetic_scores(space, seed)
        start = time.perf_counter()
        found = ALLOCATORS[name](**options)(space, cost, budget, scores)
        times.append(1e3 * (time.perf_counter() - start))
        score = total(space, scores, found)
        gaps.append((score - solve(space, cost, budget, scores).bound) / score)
        left.append(1 - measured.of(found) / limit)
    return [f"{spread(gaps, '.4%')}", spread(times, ",.0f"), spread(left, ".5%")]


def spread(values: list[float], form: str) -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    """Every allocator at every number of sub-groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", default="encoder:0.08x")
    parser.add_argument("--bits", type=int, nargs="+", default=[0, 2, 4])
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--allocators", nargs="+", choices=list(OPTIONS), default=list(OPTIONS))
    parser.add_argument("--milp_up_to", type=int, default=10_000, help="largest size that milp is tried on")
    parser.add_argument("--time_limit", type=float, default=20.0, help="seconds for each of milp's rounds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| sub-groups | allocator | gap to the bound | milliseconds | budget left |\n|---:|---|---|---|---|")
    for size in args.sizes:
        space = space_of(GROUPS[size], tuple(args.bits))
        count = sum(spec.layout.count for spec in space.weights.values() if spec.bits is None)
        for name in args.allocators:
            if name != "milp" or size <= args.milp_up_to:
                cells = row(space, name, args.budget, args.rounds, args.time_limit)
                print(f"| {count:,} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
