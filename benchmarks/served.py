"""Methods whose one run is several rows: a nested model is judged at each of its precisions, as it would be shipped."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

import hf_mpq
from hf_mpq.core import METHODS
from hf_mpq.nn.walk import matrices

SERVED = {"vertical": "vertical", "cut": "uniform"}
"""Name in the table to the method that is trained. `cut` is the negative control: trained at the highest precision
alone, with
its codes cut down afterwards."""


def precisions(config: dict) -> tuple[int, ...]:
    """What these runs serve, ascending."""
    bits = config.get("bits", METHODS["vertical"].config["bits"])
    return (bits,) if isinstance(bits, int) else tuple(sorted(bits))


def served_config(method: str, config: dict) -> hf_mpq.MPQConfig:
    """Of the model that is trained."""
    bits = precisions(config) if method == "vertical" else precisions(config)[-1]
    return hf_mpq.MPQConfig(method=SERVED[method], **{"embedding_bits": 8, **config, "bits": bits})


def check_budgets(methods: Sequence[str], budgets: Sequence[str], config: dict) -> None:
    """Raise SystemExit where one of these methods stands beside a budget that is no precision of it."""
    if not set(methods) & set(SERVED):
        return
    known = [f"{bits}bits" for bits in precisions(config)]
    wrong = [budget for budget in budgets if budget not in known]
    if wrong:
        raise SystemExit(f"{' and '.join(set(methods) & set(SERVED))} serve {', '.join(known)}, and not {wrong[0]}")


def pack_served(method: str, trainer: hf_mpq.MPQTrainer, fresh: nn.Module, budget: str, config: dict) -> None:
    """Write `packed` in the run's folder: what is shipped for a budget, with no more planes than it reads.

    Args:
        fresh: the float model, for what is cut down.
    """
    folder = Path(trainer.args.output_dir)
    if method == "cut":
        nested = {**config, "bits": precisions(config), "nested": True}
        cut = cut_down(trainer.model, hf_mpq.quantize(fresh, hf_mpq.MPQConfig(**{"embedding_bits": 8, **nested})))
        hf_mpq.pack(cut.cpu()).save_pretrained(folder / "whole")
    else:
        trainer.save_packed(folder / "whole")
    hf_mpq.extract(folder / "whole", int(budget.removesuffix("bits")), folder / "packed")
    shutil.rmtree(folder / "whole")


@torch.no_grad()
def cut_down(trained: nn.Module, nested: nn.Module) -> nn.Module:
    """Put into a nested model the weights and learned steps of one that was trained at the highest precision alone, so
    that its lower codes are the trained ones with bits dropped; returns the nested one."""
    taken = {name: one for name, one in trained.state_dict().items() if ".program." not in name}
    nested.load_state_dict({**nested.state_dict(), **taken})
    layers = dict(matrices(trained))
    for name, layer in matrices(nested):
        if layer.spec.nested:
            step, top = layers[name].program.quantizer.step, layer.spec.nested[-1]
            layer.program.quantizer.scale.copy_(
                torch.cat([step[:, -1:] * 2 ** (top - bits) for bits in layer.spec.nested], 1)
            )
        else:
            layer.calibrate()
    return nested
