"""The table of families in `docs/families.md`, as a tiny random model of each shows it.

python -m docs.family_table [model types whose row is measured anew; default: all]
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, T5EncoderModel

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import Assignment, MatrixAssignment
from hf_mpq.cost import COSTS
from hf_mpq.nn import family_of, relative_name
from hf_mpq.nn.families import FAMILIES
from hf_mpq.runtime.native import runs_natively

PAGE = Path(__file__).parent / "families.md"
HEADER = "| `model_type` |"
WIDTHS = (8, 4, 2)
SIZES = {
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "hidden_size": 1280, "num_hidden_layers": 33}
    | {"num_attention_heads": 20, "intermediate_size": 5120},
    "gemma3_text": {"vocab_size": 262144, "hidden_size": 768, "num_hidden_layers": 24, "num_attention_heads": 3}
    | {"num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 1152},
    "qwen3": {"vocab_size": 151669, "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16}
    | {"num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072},
    "t5": {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
}
"""Published ones (ESM-2 650M, EmbeddingGemma 300M, Qwen3-Embedding 0.6B, Sentence-T5 base); of all others those that a
config has by default."""
FEW = 3
"""Kinds of tensors that are named."""


def row(family: str) -> str:
    """The line of one family."""
    from tests.tiny import tiny_model

    model = tiny_model(family, "bare")
    whole = runs_natively(hf_mpq.prepare(hf_mpq.pack(hf_mpq.quantize(model, MPQConfig(bits=4))), "cpu-native"))
    known = family_of(model)
    cells = [
        f"`{family}`",
        _folded(tiny_model(family, "bare")),
        "yes" if known.operands else "no",
        "in one call" if whole else "a product at a time",
        *(_given(_refused(family, bits)) for bits in WIDTHS),
        float_share(family),
    ]
    return f"| {' | '.join(cells)} |"


def _given(refused: list[str]) -> str:
    return f"all but {', '.join(refused)}" if refused else "all"


def _folded(model: nn.Module) -> str:
    family = family_of(model)
    kinds = {link.kind for link in family.links(model)}
    heads = ["heads"] if "scores" in kinds and family.removable_heads else []
    return ", ".join(["feed-forward rows", *(["values"] if "value" in kinds else []), *heads])


def _refused(family: str, bits: int) -> list[str]:
    """What cannot be done at a width, and says so; raises AssertionError where it gives something else."""
    return [name for name, do in _steps(family, bits) if _refuses(do)]


def _refuses(do: Callable[[], None]) -> bool:
    try:
        do()
    except ValueError:
        return True
    return False


def _steps(family: str, bits: int) -> Iterator[tuple[str, Callable[[], None]]]:
    from tests.contracts.test_more_families import CLOSE, SERVED, alike, served
    from tests.exporters.test_export import run_onnx, run_openvino
    from tests.tiny import batch_for, head_class, heads_of, outputs, tiny_model

    head, batch = heads_of(family)[0], batch_for(family)

    def packed(**fields) -> nn.Module:
        return hf_mpq.pack(hf_mpq.quantize(tiny_model(family, head), MPQConfig(bits=bits, **fields)))

    def reload() -> None:
        model, kind = packed(), head_class(family, head)
        with TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            alike(outputs(model, batch), outputs(kind.from_pretrained(folder), batch), batch, 0)

    def prepare() -> None:
        model = packed()
        before = outputs(model, batch)
        for found in served(model, batch, SERVED):
            alike(before, found, batch, CLOSE)

    def export(format: str, run: Callable, **fields) -> None:
        options = {"activations": "float"} if fields and format != "dense" else {}
        options = options or ({"activations": "trained"} if format == "onnx" else {})
        model = packed(**fields)
        with TemporaryDirectory() as folder:
            found = run(hf_mpq.export(model, format, Path(folder, "out"), **options), batch)
            alike(outputs(model, batch), found, batch, CLOSE)

    def loaded(folder: Path, batch) -> list[torch.Tensor]:
        return outputs(head_class(family, head).from_pretrained(folder), batch)

    yield "reload", reload
    yield "prepare", prepare
    yield "ONNX", lambda: export("onnx", run_onnx)
    yield "OpenVINO", lambda: export("openvino", partial(run_openvino, exactly=True), activation_bits=None)
    yield "compressed-tensors", lambda: export("compressed-tensors", loaded, activation_bits=None)
    yield "dense", lambda: export("dense", loaded, activation_bits=None)


def float_share(family: str) -> str:
    """How much of a packed file at 4 bits stays float, and of what, at `SIZES`."""
    with torch.device("meta"):
        config = CONFIG_MAPPING[family](**SIZES.get(family, {}))
        model = T5EncoderModel(config) if family == "t5" else AutoModel.from_config(config)
    space = MPQConfig(bits=4, embedding_bits=4).resolve(model)
    assignment = Assignment({name: MatrixAssignment(spec.bits) for name, spec in space.weights.items()})
    total = COSTS.make("size", space).of(assignment)
    names, share = _named(model, {*space.weights, *space.norms}), 100 * space.other_bytes / total
    return f"{'under 0.1' if share < 0.05 else f'{share:.1f}'} %: {names}" if names else "nothing"


def _named(model: nn.Module, stored: set[str]) -> str:
    """Kinds of the modules whose tensors stay as they are, the largest first."""
    sizes: dict[str, int] = {}
    tied = {relative_name(model, key) for key in getattr(model, "all_tied_weights_keys", None) or ()}
    for full, tensor in model.state_dict().items():
        name = relative_name(model, full)
        owner = name.rpartition(".")[0]
        if owner not in stored and name not in tied:
            module = model.get_submodule(full.rpartition(".")[0])
            plain = type(module) in (nn.Linear, nn.Embedding)
            kind = f"`{owner.rpartition('.')[2]}`" if plain else f"`{type(module).__name__}`"
            sizes[kind] = sizes.get(kind, 0) + tensor.numel()
    largest = sorted(sizes, key=lambda kind: -sizes[kind])
    return ", ".join(largest[:FEW]) + (" and others" if len(largest) > FEW else "")


def rows() -> dict[str, str]:
    """Model type to its line on the page."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `") and not line.startswith(HEADER)]
    return {line.split("`")[1]: line for line in lines}


def main(families: list[str]) -> None:
    """Write the rows of some families anew, in the order of the registry."""
    for family in families or FAMILIES:
        line = row(family)
        found = rows() | {family: line}
        before, _, _ = PAGE.read_text().partition(HEADER)
        head = next(line for line in PAGE.read_text().splitlines() if line.startswith(HEADER))
        rule = "|" + "---|" * (head.count("|") - 1)
        lines = [found[name] for name in FAMILIES if name in found]
        PAGE.write_text(before + "\n".join([head, rule, *lines]) + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
