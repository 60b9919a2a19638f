"""How well each score ranks sub-groups: Spearman's rank correlation with the divergence that was measured.

For sampled sub-groups each precision is tried alone on dev sentences that no scorer saw: the KL divergence from the
float model's outputs, in float64 (regression: half the squared difference). Correlations are within one precision,
since across precisions any score does well. Units whose divergence is below ten times the repeat noise (the same float
model on batches that are padded to other lengths) are left out and counted.

    python benchmarks/score_quality.py --data_dir DATA --tasks mrpc stsb sst2 qnli
"""

import argparse
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import recipes_folder  # noqa: F401
import torch
from datasets import Dataset
from rich.progress import track
from scipy.stats import spearmanr
from study import Results, Study
from torch import nn

from hf_mpq import MPQConfig
from hf_mpq.core import PrecisionSpace
from hf_mpq.nn import absolute_name
from hf_mpq.nn.batches import batches_of
from hf_mpq.nn.heads import decisions_of
from hf_mpq.search import SCORERS
from hf_mpq.search.scorers import divergence, only_groups, output_divergence, reference_of
from hf_mpq.search.scorers.base import rounding_errors

COMPARED = {
    "distance (squared change)": ("distance", {}),
    "fisher, projected": ("fisher", {}),
    "fisher, Kronecker": ("fisher", {"form": "kronecker"}),
    "fisher, diagonal": ("fisher", {"form": "diagonal"}),
    "hessian trace": ("hessian", {"draws": 4}),
    "hessian eigenvalue": ("hessian", {"measure": "eigenvalue", "per": "layer", "splits": 2, "iterations": 5}),
    "class importance": ("class-importance", {}),
    "distribution": ("distribution", {}),
    "gradient": ("gradient", {}),
}


def sampled_units(space: PrecisionSpace, count: int, seed: int) -> list[tuple[str, int]]:
    """Name and sub-group of `count` units, evenly over the matrices and then at random."""
    random = np.random.default_rng(seed)
    names = [name for name, spec in space.weights.items() if spec.bits is None]
    chosen: set[tuple[str, int]] = set()
    while len(chosen) < min(count, sum(space.weights[name].layout.count for name in names)):
        name = names[len(chosen) % len(names)]
        chosen.add((name, int(random.integers(space.weights[name].layout.count))))
    return sorted(chosen)


def repeat_noise(model: nn.Module, rows: Dataset, count: int) -> float:
    """Divergence between two runs of the float model whose batches are padded to different lengths."""
    first, second = (batches_of(rows, model, size, count) for size in (32, 8))
    logits = (torch.cat([model(**batch).logits.detach() for batch in batches]) for batches in (first, second))
    return float(output_divergence(*(decisions_of(model.config, {"logits": one}, None) for one in logits)).mean())


def measured(model: nn.Module, space: PrecisionSpace, units: list[tuple[str, int]], batches: list) -> np.ndarray:
    """Mean divergence per sentence of each unit at each candidate, `(units, candidates)`."""
    reference, errors, at, found = reference_of(model, batches), [], None, []
    for name, group in track(units, "measuring"):
        spec = space.weights[name]
        if name != at:
            errors, at = rounding_errors(model.get_submodule(absolute_name(model, name)).weight, spec), name
        changes = (only_groups(error, spec.layout, [group]) for error in errors)
        found.append([float(divergence(model, {name: change}, reference).mean()) for change in changes])
    return np.array(found)


def main() -> None:
    """One row for each task, scorer and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=None, help="folder with one folder per task; default: the Hub")
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "stsb", "sst2", "qnli"])
    parser.add_argument("--models", type=Path, default=Path("out/float"))
    parser.add_argument("--out", type=Path, default=Path("out/score-quality/results.jsonl"))
    parser.add_argument("--scorers", nargs="+", default=list(COMPARED))
    parser.add_argument("--groups", type=int, default=12, help="sub-groups of each matrix")
    parser.add_argument("--bits", nargs="+", type=int, default=[0, 2, 3, 4])
    parser.add_argument("--units", type=int, default=96)
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--examples", type=int, default=256, help="for the scorers")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    results = Results(args.out, "task", "scorer", "bits")
    for name in args.tasks:
        study = Study(name, args.models, args.data_dir, seed=args.seed, dev_rows=args.sentences)
        model = study.model()
        space = MPQConfig(bits=tuple(args.bits), groups=args.groups, embedding_bits=8).resolve(model)
        units = sampled_units(space, args.units, args.seed)
        rows = study.dev.remove_columns("labels")
        batches = batches_of(rows, model, 32, args.sentences)
        noise = repeat_noise(model, rows, args.sentences)
        file = args.out.parent / f"{name}-measured.npy"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, measured(model, space, units, batches))
        truth = np.load(file)
        calibration = batches_of(study.calibration(args.examples), model, 16, args.examples)
        for title in args.scorers:
            if results.has(task=name, scorer=title, bits=args.bits[0]):
                continue
            scorer, options = COMPARED[title]
            start = perf_counter()
            scores = SCORERS[scorer](**options).score(model, space, calibration)
            seconds = perf_counter() - start
            table = np.array([scores[unit][group].tolist() for unit, group in units])
            for column, bits in enumerate(args.bits):
                heard = truth[:, column] > 10 * noise
                rho = float(spearmanr(truth[heard, column], table[heard, column]).statistic)
                results.add(
                    task=name, scorer=title, bits=bits, rho=rho, units=int(heard.sum()), noise=noise, seconds=seconds
                )
    for title in args.scorers:
        found = [row for row in results.rows if row["scorer"] == title]
        each = {bits: median(row["rho"] for row in found if row["bits"] == bits) for bits in args.bits}
        print(
            f"{title:28s}",
            "  ".join(f"{bits} bits {rho:.2f}" for bits, rho in each.items()),
            f"  median {median(row['rho'] for row in found):.2f}",
        )


if __name__ == "__main__":
    main()
