"""Models that PEFT has put adapters into, which do not go into any file or other form with them."""

import sys

from torch import nn


def check_without_adapters(model: nn.Module) -> None:
    """Raise ValueError when there are adapters of PEFT around layers inside; they have to be merged first."""
    peft = sys.modules.get("peft")
    if peft is None or not isinstance(model, nn.Module):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    kinds = (BaseTunerLayer, ModulesToSaveWrapper)
    name = next((name for name, module in model.named_modules() if isinstance(module, kinds)), None)
    if name is not None:
        raise ValueError(
            f"{name} of this {type(model).__name__} has an adapter of PEFT, which would be lost: save the adapter with "
            "the PeftModel's save_pretrained, or take it into the model first, with "
            "hf_mpq.plugin.lora.merge_adapters(peft_model)"
        )
