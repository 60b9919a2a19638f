"""LQ-Nets (Zhang et al., 2018): levels are sums of a learned basis, for weights and activations."""

from ..core import METHODS, MethodSpec, StageSpec

LQ_NETS = METHODS.add(
    "lq-nets",
    MethodSpec(
        name="lq-nets",
        summary="The levels of each output channel's weights are signed sums of a small basis, those of each matrix's "
        "inputs sums of some of one, so that products are bit operations. The bases follow weights and inputs by least "
        "squares once per step, and are never trained by gradients. One precision, nothing to search.",
        paper="Zhang et al., LQ-Nets: Learned Quantization for Highly Accurate and Compact Deep Neural Networks, "
        "ECCV 2018",
        config={"bits": 3, "groups": "channel", "quantizer": "basis", "activation": "basis", "activation_bits": 4},
        rounding="nearest",
        outliers="none",
        stages=(StageSpec("qat"),),
        deviations=(
            "weights have 3 bits and inputs 4; the paper gives both the same, 1 to 4: bits and activation_bits choose",
            "a basis is used and stored as a scale times whole numbers whose sizes sum to 127 at most, so that "
            "products of integers are exact; the paper's parts are floats",
            "parts of an input's basis may be negative, and zero is always a level; the paper's inputs leave a ReLU",
            "bases start where alternating least squares ends from uniform grids of least squared error, for inputs "
            "over calibration examples, and the uniform grid is kept where nothing is better; the paper starts at a "
            "Gaussian's quartiles",
            "training starts from the fine-tuned float model, with the trainer's optimizer; the paper trains from "
            "scratch by SGD",
            "embedding tables and the matrices around the encoder have 8 bits and even levels, and the inputs of the "
            "latter those of the encoder's; the paper leaves its first and last layers in float",
            "padding counts among the inputs that a basis follows",
        ),
    ),
)
