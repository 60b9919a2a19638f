"""Adam for numbers of any size: in shares of themselves, or of something else."""

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

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-12,
    ):
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Tensor | None:
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            alike: dict[int, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(self._count(parameter), []).append(parameter)
            for count, parameters in alike.items():
                self._update(parameters, count, group)
        return loss

    def _count(self, parameter: nn.Parameter) -> int:
        """Updates of a parameter, this one included."""
        state = self.state[parameter]
        if not state:
            state["step"] = 0  # no tensor: on a GPU its value would have to be waited for
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        return state["step"]

    def _update(self, parameters: list[nn.Parameter], count: int, group: dict) -> None:
        """One update of all of them in a few calls, for there are many and they are small."""
        (first, second), states = group["betas"], [self.state[parameter] for parameter in parameters]
        means, squares = [state["mean"] for state in states], [state["square"] for state in states]
        units = self._units(parameters)
        gradients = torch._foreach_mul([parameter.grad for parameter in parameters], units)
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - second)
        changes = torch._foreach_mul(torch._foreach_div(means, 1 - first**count), -group["lr"])
        roots = torch._foreach_sqrt(torch._foreach_div(squares, 1 - second**count))
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_div_(changes, roots)
        self._change(parameters, changes, units)

    def _units(self, parameters: list[nn.Parameter]) -> list[Tensor]:
        """What each parameter is counted in."""
        return list(parameters)

    def _change(self, parameters: list[nn.Parameter], changes: list[Tensor], units: list[Tensor]) -> None:
        torch._foreach_exp_(changes)
        torch._foreach_mul_(parameters, changes)


class UnitAdam(RelativeAdam):
    """Adam on numbers of any sign, each counted in units of its own: `p <- p - lr unit m / (sqrt(v) + eps)`, with the
    moments of `unit grad`.

    Args:
        parameters: each with what gives its unit at the time of a step, a tensor that broadcasts with it.
        lr: largest share of its unit by which a parameter changes in a step, about.
        options: of `RelativeAdam`.
    """

    def __init__(self, parameters: Iterable[tuple[nn.Parameter, Callable[[], Tensor]]], lr: float = 1e-3, **options):
        pairs = list(parameters)
        self._unit_of = {id(parameter): unit for parameter, unit in pairs}
        super().__init__([parameter for parameter, _ in pairs], lr, **options)

    def _units(self, parameters: list[nn.Parameter]) -> list[Tensor]:
        return [self._unit_of[id(parameter)]().expand_as(parameter) for parameter in parameters]

    def _change(self, parameters: list[nn.Parameter], changes: list[Tensor], units: list[Tensor]) -> None:
        torch._foreach_addcmul_(parameters, changes, units)
