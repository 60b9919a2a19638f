"""A low-rank correction of what quantization took from a weight, fitted to what the layer reads."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from .linear import MPQLinear
from .naming import absolute_name, relative_modules
from .running import evaluating, forward_inputs, real_rows, real_tokens

DAMPING = 1e-6
"""Directions of the input below this share of the strongest one's variance count as that strong."""


@torch.no_grad()
def correct_low_rank(model: nn.Module, reference: nn.Module, batches: Iterable[Mapping]) -> None:
    """Fit the low-rank factors of every layer that has room for them, in place (EoRA, Liu et al., 2024).

    `B A` is the matrix of the layer's rank that is nearest to `W - W_hat`, measured by the layer's output on `batches`.
    Pruned and folded rows, and dead columns, are left as they are. Factors do not train along; call this after
    rounding.

    Args:
        model: trainable, with fixed gates, made with `MPQConfig(low_rank=...)`.
        reference: the float model that it was made from.
        batches: keyword arguments of forward, as tensors; labels are not used, padding does not count.

    Raises:
        ValueError: when no layer has room, a gate is open, or there are no batches.
    """
    layers = {name: one for name, one in relative_modules(model, MPQLinear) if one.spec.rank}
    if not layers:
        raise ValueError("no layer has room for a low-rank correction; quantize with MPQConfig(low_rank=8)")
    if any(layer.is_open for layer in layers.values()):
        raise ValueError("precisions are still searched; call hf_mpq.fix(model) first")
    moments = input_moments(model, layers, batches)
    if not moments:
        raise ValueError("no layer was reached: were any batches given?")
    for name, moment in moments.items():
        layer, weight = layers[name], reference.get_submodule(absolute_name(reference, name)).weight.float()
        scaled = weight if layer.input_scale is None else weight * layer.input_scale
        error = (scaled - layer.coded_weight()) * layer.kept_rows().unsqueeze(1)
        layer.set_low_rank(*_fitted(layer, error, moment))


def _fitted(layer: MPQLinear, error: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Factors over the live columns, zero elsewhere: `(out, rank)` and `(rank, in)`."""
    live = layer.live_inputs().nonzero().flatten()
    columns = error.new_zeros(layer.spec.rank, error.shape[1])
    if len(live) == 0:
        return error.new_zeros(error.shape[0], layer.spec.rank), columns
    rows, short = nearest_factors(error[:, live], moment[live][:, live], layer.spec.rank)
    columns[: len(short), live] = short
    return nn.functional.pad(rows, (0, layer.spec.rank - rows.shape[1])), columns


def nearest_factors(error: Tensor, moment: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """`B (out, rank)` and `A (rank, in)` that minimise `tr((E - B A) C (E - B A)^T)`.

    With `C = Q L Q^T` and the SVD of `E Q L^(1/2) = U S V^T`: `B = U S^(1/2)`, `A = S^(1/2) V^T L^(-1/2) Q^T`. Each
    pair of a column and a row is then made equally long, which their product does not show but their stored type does.

    Args:
        error: E, `(out, in)`.
        moment: C, the second moment of the input, `(in, in)`.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    roots = values.clamp(min=DAMPING * max(float(values.max()), 1e-30)).sqrt()
    left, strengths, right = torch.linalg.svd(error.double() @ vectors * roots, full_matrices=False)
    rows = left[:, :rank] * strengths[:rank].sqrt()
    columns = strengths[:rank].sqrt().unsqueeze(1) * right[:rank] / roots @ vectors.T
    balance = (columns.norm(dim=1) / rows.norm(dim=0).clamp(min=1e-30)).clamp(min=1e-30).sqrt()
    return (rows * balance).float(), (columns / balance.unsqueeze(1)).float()


@torch.no_grad()
def input_moments(model: nn.Module, layers: Mapping[str, MPQLinear], batches: Iterable[Mapping]) -> dict[str, Tensor]:
    """Sum of `x x^T` over real tokens of what each layer multiplies, shifted, scaled and quantized: `(in, in)`."""
    moments: dict[str, Tensor] = {}
    mask: Tensor | None = None

    def observe(name: str):
        def hook(layer: MPQLinear, args: tuple) -> None:
            x = layer.normalised(args[0])
            x = x if layer.input_quantizer is None else layer.input_quantizer(x)
            rows = real_rows(x, mask).float()
            moments[name] = moments.get(name, 0) + rows.T @ rows

        return hook

    hooks = [layer.register_forward_pre_hook(observe(name)) for name, layer in layers.items()]
    try:
        with evaluating(model):
            for batch in batches:
                inputs = forward_inputs(model, batch)
                mask = real_tokens(inputs)
                model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return moments
