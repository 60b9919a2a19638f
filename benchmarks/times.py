"""How long a compressed model takes beside the one that it was made of, both at 8 bits and both in float."""

import copy
from collections.abc import Mapping

from torch import nn

import hf_mpq
from hf_mpq.runtime.timing import example, in_turn, undisturbed


def times(packed: nn.Module, whole: nn.Module, shape: str) -> Mapping[str, float]:
    """Milliseconds of a pass on this machine, and their share of the whole model's, measured in turn.

    Args:
        packed: the compressed model; left as it is.
        whole: float.
        shape: of the input, batch x tokens.
    """
    batch, tokens = map(int, shape.split("x"))
    inputs = example(whole, batch, tokens)
    rounded = hf_mpq.pack(hf_mpq.quantize(copy.deepcopy(whole), hf_mpq.MPQConfig(bits=8))).eval()
    small = copy.deepcopy(packed).dequantize().eval()
    own, other = in_turn(hf_mpq.prepare(rounded), hf_mpq.prepare(copy.deepcopy(packed)), inputs)
    float_own, float_other = in_turn(whole.eval(), small, inputs)
    return {
        "milliseconds": undisturbed(other),
        "share": undisturbed(other) / undisturbed(own),
        "float_milliseconds": undisturbed(float_other),
        "float_share": undisturbed(float_other) / undisturbed(float_own),
    }
