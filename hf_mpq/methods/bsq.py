"""BSQ (Yang et al., ICLR 2021): bit planes as parameters, emptied by a group lasso and stripped off."""

from ..core import METHODS, MethodSpec, Part, StageSpec
from .mpq import DISTILLATION

BSQ = METHODS.add(
    "bsq",
    MethodSpec(
        name="bsq",
        summary="Every weight is a sum of bit planes, which are trained as floats and rounded together. A group lasso "
        "empties planes of each sub-group, and those that are all zero are stripped off every few steps, at both ends. "
        "What is left are ordinary codes, which are trained on.",
        paper="Yang et al., BSQ: Exploring Bit-Level Sparsity for Mixed-Precision Neural Network Quantization, "
        "ICLR 2021",
        config={
            "bits": (2, 3, 4, 5, 6, 7, 8),
            "quantizer": Part("lsq", two_bits="ternary"),
            "source": "rounded-planes",
            "gate": "stripped-planes",
        },
        stages=(
            StageSpec(
                "search",
                objectives=DISTILLATION,
                strategy=Part("joint", start="zeros"),
                schedules={"bit-sparsity": {"strength": 5e-3}},
                arguments={"scale_learning_rate": 50.0},
                trainable=("weights", "planes"),
            ),
            StageSpec("qat", objectives=DISTILLATION),
        ),
        deviations=(
            "one sign per weight, that of the start, and up to 7 planes; the paper's positive and negative planes have "
            "511 levels, which take 9 bits",
            "planes are stripped off by sub-group, of which each keeps one at least, and the lasso is over sub-groups; "
            "in the paper both are over layers; bits=(0, 2, 3, 4, 5, 6, 7, 8) prunes sub-groups too",
            "the lasso is not given a budget, as in the paper, whose strengths trace a front; the result is projected "
            "into the budget, which takes away the planes of least squared value",
            "planes take Adam's steps, 50 times the weights' rate, and do not decay; the paper has SGD",
            "codes are taken apart anew every tenth of the search, and the optimizer goes on; the paper does so every "
            "100 epochs, and makes a new one",
            "the planes that are left become float weights on their grid, and the second stage is quantization-aware "
            "training as in mpq, with learned steps",
            "training takes 112 bytes of memory for a weight with 7 planes: use a small encoder, or fewer bits",
        ),
    ),
)
