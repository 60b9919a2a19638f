"""GHOST's hybrid bits (Zhang et al., TGRS 2023): each matrix gets the fewest bits whose k-means distortion is small."""

from ..core import METHODS, MethodSpec, StageSpec

GHOST = METHODS.add(
    "ghost",
    MethodSpec(
        name="ghost",
        summary="Each matrix gets the fewest bits at which the k-means distortion of its weights stays under a "
        "threshold, and its input as many. The threshold follows from the budget; the model is then trained at those "
        "bits.",
        paper="Zhang et al., Guided Hybrid Quantization for Object Detection in Remote Sensing, TGRS 2023",
        config={
            "bits": (2, 3, 4, 5, 6, 7, 8),
            "groups": "matrix",
            "activation_bits": "weights",
            "embedding_bits": 8,
        },
        scorer="distribution",
        allocator="distortion",
        rounding="nearest",
        outliers="none",
        stages=(StageSpec("qat", objectives={"task": {"weight": 2.0}, "self-teaching": {"weight": 400.0}}),),
        deviations=(
            "embedding tables, which the paper's networks lack, have 8 bits in every budget",
            "distortion is divided by the variance of the weights and its threshold set by the budget; the paper's own "
            "(scorer={'name': 'distribution', 'relative': False}, allocator={'name': 'distortion', 'tau': 0.1}) gives "
            "an encoder 7 or 8 bits nearly everywhere",
            "weights are rounded by this library's quantizers, not DoReFa's, which relies on batch normalisation",
            "its one-to-one self-teaching runs over encoder layers; weights 2 and 400 of the two losses are those of "
            "the detector, and the optimizer is the trainer's, not SGD with Nesterov momentum",
        ),
    ),
)
