"""Latency on a GPU: float16 beside our integer products and products straight from bit planes.

    python benchmarks/bench_cuda.py --shape minilm
    python benchmarks/bench_cuda.py --shape bert-base --shapes 1x32 32x128 --tokens 1 8 32 128

Two tables: whole models of random weights at the shapes of `bench_inference.py`, and the products of one layer for few
tokens, where it shows up to how many tokens planes are faster than bytes (`FEW_TOKENS`). Engines take turns, round by
round; each cell is the median in microseconds, and in brackets the median ratio to float16 of the same round. Without a
GPU it says so and stops.
"""

import argparse
import copy
import statistics
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertConfig

import hf_mpq
from hf_mpq.core import Assignment, MatrixAssignment
from hf_mpq.runtime.cuda import PlanesProduct, TensorCoreProduct, kernels_for

SHAPES = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
MODELS = {
    "int8 per token": ({"bits": 8}, "cuda"),
    "int8 static": ({"bits": 8, "activation": "static"}, "cuda"),
    "int8, 4-bit weights": ({"bits": 4}, "cuda"),
    "2 and 4-bit weights": ({"bits": (2, 4), "groups": 128}, "cuda"),
    "float16, 4-bit weights": ({"bits": 4, "activation_bits": None}, "cuda"),
    "float16, decoded once": ({"bits": 4, "activation_bits": None}, "cuda-float"),
}
FLOAT, DEVICE = "float16", "cuda"
PRODUCTS = {"int8 bytes": (8, 8), "int8 planes": (4, 8), "float16 planes": (4, None)}
"""Bits of the weights and of the inputs."""
ROLES = ("bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.0.output.dense")
CALLS, WARM_UP = 20, 5
Run = Callable[[], Tensor]


def main() -> None:
    """Time models, then single products."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="minilm")
    parser.add_argument("--shapes", nargs="+", default=["1x32", "1x128", "8x128", "32x128"], help="batch x tokens")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 8, 16, 32, 64, 128], help="of single products")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench_cuda.py needs a CUDA device, and torch finds none here; bench_inference.py measures CPUs")
        return
    print(torch.cuda.get_device_name(), torch.__version__)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SHAPES[args.shape])).eval()
    with torch.inference_mode():
        engines = _models(model)
        for shape in args.shapes:
            batch = _batch(model, *map(int, shape.split("x")))
            _print(shape, _measured({name: partial(one, **batch) for name, one in engines.items()}, args.rounds))
        packed = _packed(model)
        for role in ROLES:
            for tokens in args.tokens:
                runs = _products(model, packed, role, tokens)
                _print(f"{role.rpartition('0.')[2]} x {tokens}", _measured(runs, args.rounds))


def _models(model: nn.Module) -> dict[str, nn.Module]:
    engines = {FLOAT: _half(copy.deepcopy(model))}
    for name, (fields, backend) in MODELS.items():
        config = hf_mpq.MPQConfig(**fields)
        if len(_candidates(fields)) > 1:
            config.assignment = _in_turn(config, model).to_dict()
        quantized = hf_mpq.quantize(copy.deepcopy(model), config)
        if fields.get("activation") == "static":
            hf_mpq.nn.calibrate_activations(quantized, [_batch(model, 4, 64, "cpu")])
        engines[name] = hf_mpq.prepare(_half(hf_mpq.pack(quantized)), backend)
    return engines


def _half(module: nn.Module) -> nn.Module:
    return nn.Module.to(module, DEVICE, torch.float16)  # the model's own `to` takes no type once it is quantized


def _candidates(fields: Mapping) -> tuple[int, ...]:
    return fields["bits"] if isinstance(fields["bits"], tuple) else (fields["bits"],)


def _in_turn(config: hf_mpq.MPQConfig, model: nn.Module) -> Assignment:
    """Sub-groups of every matrix at its candidates in turn."""
    weights = config.resolve(model).weights.items()
    return Assignment(
        {
            name: MatrixAssignment(
                tuple(spec.candidates[group % len(spec.candidates)] for group in range(spec.layout.count))
            )
            for name, spec in weights
        }
    )


def _batch(model: nn.Module, rows: int, tokens: int, device: str = DEVICE) -> dict[str, Tensor]:
    ids = torch.randint(1000, model.config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}


def _packed(model: nn.Module) -> dict[str, tuple[nn.Module, bool]]:
    """Models whose layers' products are compared, and whether those read planes."""
    found = {}
    for name, (bits, activation_bits) in PRODUCTS.items():
        config = hf_mpq.MPQConfig(bits=bits, activation_bits=activation_bits)
        found[name] = _half(hf_mpq.pack(hf_mpq.quantize(copy.deepcopy(model), config))), "planes" in name
    return found


def _products(model: nn.Module, packed: Mapping[str, tuple[nn.Module, bool]], role: str, tokens: int) -> dict[str, Run]:
    """One layer's product in float16, in bytes, and from 4-bit planes with integer and with float inputs."""
    linear = _half(copy.deepcopy(model.get_submodule(role)))
    x = torch.randn(tokens, linear.in_features, device=DEVICE, dtype=torch.float16)
    runs, kernels = {FLOAT: partial(linear, x)}, kernels_for(x.device)
    for name, (one, planes) in packed.items():
        layer, few = one.get_submodule(role), tokens if planes else 0
        runs[name] = partial(
            PlanesProduct.of(layer, kernels, layer.forward, few)
            if layer.input_quantizer is None
            else TensorCoreProduct(layer, kernels, few),
            x,
        )
    return runs


def _measured(runs: Mapping[str, Run], rounds: int) -> dict[str, str]:
    """Median microseconds of a call, and the ratio to float16."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(_microseconds(run))
    ratios = {name: statistics.median(a / b for a, b in zip(times, taken[FLOAT])) for name, times in taken.items()}
    return {name: f"{statistics.median(times):.0f} ({ratios[name]:.2f})" for name, times in taken.items()}


def _microseconds(run: Run) -> float:
    """Of one of some calls in a row, after a few that warm up."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(WARM_UP):
        run()
    start.record()
    for _ in range(CALLS):
        run()
    end.record()
    end.synchronize()
    return 1000 * start.elapsed_time(end) / CALLS


def _print(what: str, cells: Mapping[str, str]) -> None:
    for name, cell in cells.items():
        print(f"{what:28} {name:24} {cell}", flush=True)


if __name__ == "__main__":
    main()
