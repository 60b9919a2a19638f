"""Sub-nets of one super-model: smaller models whose parameters are parts of its own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..core import ModelShape
from .reshape import Prefixes, reduced

Convert = Callable[[nn.Module], nn.Module]


class Elastic:
    """Runs a model at smaller shapes, with its own parameters: no layer knows of it.

    A sub-net is an ordinary model of a smaller config, called by `torch.func.functional_call` with the first part of
    each parameter of the super-model, as `Prefixes` cuts them; so gradients reach the super-model. Skeletons are kept
    for each shape, without parameters of their own. After AutoTinyBERT (Yin et al., ACL 2021) and Bigger & Faster
    (Bailey et al., 2022), whose layers are cut inside their forward functions.

    Args:
        model: the super-model, float or quantized, of a known family.
        convert: makes of a plain float skeleton what runs, such as a quantized model, with all state that is not in
            the super-model; None where that is float. What the super-model has under the same name is taken from it.
    """

    def __init__(self, model: nn.Module, convert: Convert | None = None):
        self.model, self._convert = model, convert
        self._subnets: dict[ModelShape, _SubNet] = {}

    def __call__(self, shape: ModelShape, **inputs: Any) -> Any:
        """Outputs of the sub-net of a shape, in the super-model's mode; differentiable in its parameters."""
        subnet = self._kept(shape)
        subnet.skeleton.train(self.model.training)
        return torch.func.functional_call(subnet.skeleton, subnet.state(self.model), kwargs=inputs)

    def skeleton(self, shape: ModelShape) -> nn.Module:
        """What runs for a shape, without parameters of its own: for hooks that read features of the sub-net."""
        return self._kept(shape).skeleton

    def _kept(self, shape: ModelShape) -> "_SubNet":
        if shape not in self._subnets:
            self._subnets[shape] = self._made(shape).emptied()
        return self._subnets[shape]

    def extract(self, shape: ModelShape) -> nn.Module:
        """The sub-net as a model of its own, which shares nothing with the super-model."""
        subnet = self._made(shape)
        own = {**dict(subnet.skeleton.named_parameters()), **dict(subnet.skeleton.named_buffers())}
        with torch.no_grad():
            for name, tensor in subnet.state(self.model).items():
                own[name].data = tensor.detach().clone()
        return subnet.skeleton.train(self.model.training)

    def _made(self, shape: ModelShape) -> "_SubNet":
        made = reduced(self.model, shape)
        return _SubNet(made if self._convert is None else self._convert(made), Prefixes(self.model, shape))


class _SubNet:
    """A skeleton, and what its tensors are taken from.

    Args:
        skeleton: of a sub-net's shape.
        prefixes: how it is cut from the super-model.
    """

    def __init__(self, skeleton: nn.Module, prefixes: Prefixes):
        self.skeleton, self._prefixes = skeleton, prefixes
        kept = skeleton.state_dict(keep_vars=True).keys()
        tensors = [*skeleton.named_parameters(), *(one for one in skeleton.named_buffers() if one[0] in kept)]
        self._wanted = {name: (prefixes.source(name), one.shape) for name, one in tensors}

    def emptied(self) -> "_SubNet":
        """Without memory for parameters; those that are one stay one."""
        empty: dict[int, nn.Parameter] = {}
        for module in self.skeleton.modules():
            for name, one in list(module.named_parameters(recurse=False)):
                made = nn.Parameter(torch.empty_like(one, device="meta"), one.requires_grad)
                setattr(module, name, empty.setdefault(id(one), made))
        return self

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Everything of the sub-net that the super-model has."""
        own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
        found = ((name, source, shape) for name, (source, shape) in self._wanted.items() if source in own)
        return {name: self._prefixes.cut(name, own[source], shape) for name, source, shape in found}
