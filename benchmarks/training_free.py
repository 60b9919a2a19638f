"""Training-free compression of MiniLM on GLUE tasks: scorers and roundings at several sizes, side by side.

Every cell is scored on the dev set and compared with the float model's own predictions. Scores are computed once per
task; rows that are there already are not run again.

    python benchmarks/training_free.py --data_dir DATA --tasks mrpc stsb sst2 qnli --scorers fisher distance
"""

import argparse
from dataclasses import replace
from pathlib import Path

import recipes_folder  # noqa: F401
import torch
from study import Results, Study

from hf_mpq import MPQConfig, size_report
from hf_mpq.compression.engine import TrainingFree
from hf_mpq.core import MethodSpec, budgets_of
from hf_mpq.nn.batches import batches_of

CANDIDATES = (2, 3, 4, 8)
PLAIN = MethodSpec("cell", "", scorer="distance", allocator="lagrangian", rounding="nearest")
SCORERS = {
    "distance": ("distance", {}),
    "fisher": ("fisher", {}),
    "fisher-kronecker": ("fisher", {"form": "kronecker"}),
    "fisher-diagonal": ("fisher", {"form": "diagonal"}),
    "hessian": ("hessian", {"draws": 4}),
    "class-importance": ("class-importance", {}),
    "distribution": ("distribution", {}),
    "gradient": ("gradient", {}),
}


class Cells:
    """All cells of one task: scores and scanned scales are computed once."""

    def __init__(self, study: Study, args):
        candidates = CANDIDATES if args.candidates is None else tuple(args.candidates)
        config = MPQConfig(bits=candidates, groups=args.groups, activation_bits=args.activation_bits, embedding_bits=8)
        self.study, self.seed, self.scores = study, args.seed, {}
        batches = batches_of(study.calibration(args.examples), study.model(), 16, args.examples)
        self.engine = TrainingFree(study.model(), config, PLAIN, batches)

    def run(self, scorer: str, rounding: str, bits: float) -> dict[str, float]:
        """Scores of one cell. `uniform` gives every sub-group the same bits, or random ones the two next to a
        fraction."""
        engine, name = self.engine, scorer.removeprefix("uniform") or "distance"
        chosen, options = SCORERS[name]
        engine.choose(
            replace(
                PLAIN,
                scorer=chosen,
                scorer_options=options,
                rounding=rounding.removesuffix("+b"),
                bias_correction=rounding.endswith("+b"),
                allocator="uniform" if scorer == "uniform" else "lagrangian",
                allocator_options={"fraction": True, "seed": self.seed} if scorer == "uniform" else {},
            )
        )
        engine.keep_scores(self.scores.get(name))
        engine.seconds.clear()
        if scorer == "uniform" and bits == int(bits):
            assignment = engine.everywhere(int(bits))
        else:
            assignment = engine.assignment(budgets_of(f"{bits}bits"))
            self.scores[name] = engine.scores()
        torch.manual_seed(self.seed)
        model = engine.build(assignment)
        found = self.study.judge(model)
        return {
            **found,
            "code_bits": size_report(model).average_bits,
            **{f"{part}_seconds": seconds for part, seconds in engine.seconds.items()},
        }


def main() -> None:
    """Run every cell that has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=None, help="folder with one folder per task; default: the Hub")
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "stsb", "sst2", "qnli"])
    parser.add_argument("--models", type=Path, default=Path("out/float"), help="folder of fine-tuned float models")
    parser.add_argument("--out", type=Path, default=Path("out/training-free/results.jsonl"))
    parser.add_argument("--scorers", nargs="+", default=["uniform", *SCORERS])
    parser.add_argument("--roundings", nargs="+", default=["nearest"], help="'+b' after a name corrects biases")
    parser.add_argument("--bits", nargs="+", type=float, default=[8, 4, 3, 2.5])
    parser.add_argument("--candidates", nargs="+", type=int, default=None)
    parser.add_argument("--groups", default="128")
    parser.add_argument("--activation_bits", type=int, default=8)
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--dev_rows", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    results = Results(args.out, "task", "scorer", "rounding", "bits", "groups", "candidates", "activations", "seed")
    for name in args.tasks:
        study = Study(name, args.models, args.data_dir, seed=args.seed, dev_rows=args.dev_rows)
        common = {
            "groups": args.groups,
            "candidates": args.candidates,
            "activations": args.activation_bits,
            "seed": args.seed,
        }
        if not results.has(task=name, scorer="float", rounding=None, bits=32, **common):
            results.add(task=name, scorer="float", rounding=None, bits=32, **common, **study.judge(study.model()))
        cells = None
        for scorer in args.scorers:
            for bits in args.bits:
                for rounding in args.roundings:
                    key = {"task": name, "scorer": scorer, "rounding": rounding, "bits": bits, **common}
                    if not results.has(**key):
                        cells = cells or Cells(study, args)
                        results.add(**key, **cells.run(scorer, rounding, bits))


if __name__ == "__main__":
    main()
