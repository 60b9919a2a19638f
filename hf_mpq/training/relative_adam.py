"""Adam for positive numbers of any size."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class RelativeAdam(Optimizer):
    """Adam on the logarithm: `p <- p exp(-lr m / (sqrt(v) + eps))` with Adam's bias-corrected moments of `p grad`.

    Quantization steps differ a hundredfold between precisions; an update of `lr` is a share of each one's own size, and
    none changes its sign. (Ours; LSQ, Esser et al. 2020, section 2.2, balances updates by a factor on the gradient,
    which Adam's normalisation would take out again.)

    Args:
        parameters: positive ones.
        lr: largest share by which a parameter changes in a step, about.
        betas, eps: as in Adam.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-12):  # fmt: skip
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Tensor | None:
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0  # no tensor: on a GPU its value would have to be waited for
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        (first, second), gradient = group["betas"], parameter.grad * parameter
        state["step"] += 1
        count = state["step"]
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        mean = state["mean"] / (1 - first**count)
        root = (state["square"] / (1 - second**count)).sqrt()
        parameter.mul_(torch.exp(-group["lr"] * mean / (root + group["eps"])))
