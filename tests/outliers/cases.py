"""Tiny encoders with outlier channels behind every normalisation."""

from functools import partial

import torch
from torch import nn

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn import MPQLinear
from hf_mpq.nn.walk import matrices
from tests.tiny import tiny_batch, tiny_model

EXACT = {"float_dtype": "float32", "scale_dtype": "float32"}


@torch.no_grad()
def spiky_model(family: str, head: str = "sequence", gain: float = 30.0):
    """A float model whose normalisations make two channels `gain` times as large, one of them off centre; the layers
    behind do not make up for it."""
    model = tiny_model(family, head)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.weight.shape[0] > 20:
            module.weight *= torch.rand_like(module.weight) + 0.5
            module.weight[[3, 17]] *= gain
            if module.bias is not None:
                module.bias[17] += gain
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and "embed" not in name and parameter.shape[1] == 32:
            parameter[:, [3, 17]] /= gain
    return model


def spiky_quantized(family: str, head: str = "sequence", **options):
    return hf_mpq.quantize(spiky_model(family, head), MPQConfig(**({"bits": 8, "activation_bits": 4} | options)))


def make_float(model):
    """Nothing is rounded in linear layers any more, but what is decided stays."""
    for _, layer in matrices(model, MPQLinear):
        layer.quantized_weight = partial(MPQLinear.kept_weight, layer)
        layer.input_quantizer = None
    return model


def batches():
    return [tiny_batch(), tiny_batch(2, 7)]
