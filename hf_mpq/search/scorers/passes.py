"""Running calibration batches through a model that is left as it was."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...core.inputs import is_label
from ...nn import running
from ...nn.running import evaluating


@dataclass(frozen=True)
class Batch:
    """One calibration batch on the model's device.

    Attributes:
        inputs: keyword arguments of forward, without labels.
        labels: what was taken out: `labels`, `start_positions`, `end_positions`.
        mask: which tokens are real, `(sequences, tokens)` bool; None when all are.
    """

    inputs: dict[str, Tensor]
    labels: dict[str, Tensor]
    mask: Tensor | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def target(self) -> Tensor | None:
        """Labels of examples or tokens, if there are any."""
        return self.labels.get("labels", self.labels.get("label"))


def batches_on(model: nn.Module, batches: Iterable[Mapping]) -> list[Batch]:
    """The batches on the model's device, labels apart.

    Raises:
        ValueError: when there are none.
    """
    device = next(model.parameters()).device
    found = []
    for batch in batches:
        tensors = {key: value.to(device) for key, value in batch.items()}
        labels = {key: value for key, value in tensors.items() if is_label(key)}
        inputs = {key: value for key, value in tensors.items() if key not in labels}
        found.append(Batch(inputs, labels, running.real_tokens(inputs)))
    if not any(len(batch) for batch in found):
        raise ValueError("no calibration examples were given; a few hundred of the task's inputs are enough")
    return found


def tables(model: nn.Module) -> list[Tensor]:
    """Weights of every embedding table: what all activations depend on, so that a backward pass to them meets all."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]


@contextmanager
def differentiating(model: nn.Module, weights: Sequence[Tensor]) -> Iterator[None]:
    """Evaluation mode, with gradients of these weights and of no others; everything is put back."""
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        for parameter, needed in required.items():
            parameter.requires_grad_(needed)


@contextmanager
def eager_attention() -> Iterator[None]:
    """Attention written out, which can be differentiated twice; the fused kernels cannot."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
