"""CSQ (Xiao et al., DAC 2023): precisions found by bit planes that become hard, without approximated gradients."""

from ..core import METHODS, MethodSpec, Part, StageSpec
from .mpq import DISTILLATION

CSQ = METHODS.add(
    "csq",
    MethodSpec(
        name="csq",
        summary="Every weight is a sum of bit planes, and what is learned are the planes and which of them each "
        "sub-group has: both are sigmoids that grow sharper until they are bits, so that no gradient is approximated. "
        "A penalty takes planes away above the budget and brings them back below it. The planes then become ordinary "
        "codes, which are trained on.",
        paper="Xiao et al., CSQ: Growing Mixed-Precision Quantization Scheme with Bi-level Continuous Sparsification, "
        "DAC 2023",
        config={
            "bits": (2, 3, 4, 5, 6, 7, 8),
            "quantizer": Part("lsq", two_bits="ternary"),
            "source": "planes",
            "gate": "planes",
        },
        stages=(
            StageSpec(
                "search",
                objectives=DISTILLATION,
                strategy="continuous-sparsification",
                arguments={"scale_learning_rate": 50.0},
                trainable=("weights", "planes", "gates"),
            ),
            StageSpec("qat", objectives=DISTILLATION),
        ),
        deviations=(
            "one sign per weight, that of the start, and up to 7 planes; the paper's two sets of 8 planes have 511 "
            "levels, which take 9 bits",
            "bits are counted as they are stored, from the lowest open plane of a sub-group to its highest and one for "
            "the sign; the paper counts open planes",
            "planes and gates are divided by what they are at the start, so that sharper sigmoids alone change no "
            "weight; the start is the fine-tuned model, where the paper's networks start from random bits",
            "planes are selected by sub-group, of which each keeps one at least; the paper selects by layer; "
            "bits=(0, 2, 3, 4, 5, 6, 7, 8) prunes sub-groups too",
            "planes take Adam's steps in units of their start, 50 times the weights' rate, and do not decay; gates "
            "take Adam's steps of one size; the paper has SGD",
            "the penalty compares the cost of what would be decided now with the budget, relative to it, and the "
            "result is projected into the budget",
            "there is one ramp of the sharpness and no rewinding; the planes that are then chosen become float weights "
            "on their grid, and the second stage is quantization-aware training as in mpq, with learned steps",
            "training takes 112 bytes of memory for a weight with 7 planes: use a small encoder, or fewer bits",
        ),
    ),
)
