"""What a Trainer has to do for quantized models."""

from transformers import TrainerCallback

from ..nn import update_quantizers


class UpdateQuantizers(TrainerCallback):
    """Calls `update_quantizers` after each optimizer step; pass it to the `callbacks` of an ordinary Trainer.

    Without it, static activation ranges are never learned, and quantizers with moving bases stand still.
    """

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        update_quantizers(model)
