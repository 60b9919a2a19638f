"""Class-based quantization (Sun et al., DATE 2023): neurons that matter to more classes get more bits."""

from ..core import METHODS, MethodSpec, StageSpec

CLASS_BASED = METHODS.add(
    "class-based",
    MethodSpec(
        name="class-based",
        summary="Neurons that matter to more classes get more bits. Importance is read from the gradients of each "
        "class's score, thresholds on it are moved until the budget is met, and the model is trained at the "
        "result with distillation from its float self.",
        paper="Sun et al., Class-based Quantization for Neural Networks, DATE 2023",
        config={"bits": (0, 1, 2, 3, 4), "groups": "channel", "embedding_bits": 8},
        scorer="class-importance",
        allocator="threshold",
        rounding="nearest",
        stages=(StageSpec("qat", objectives={"task": {"weight": 0.5}, "soft-labels": {"weight": 0.5}}),),
        deviations=(
            "embedding tables, which the paper's networks lack, have 8 bits in every budget",
            "GELU gives almost no exact zeros, so a neuron is on a class's path when its Taylor score is above a share "
            "of the layer's largest, not above 1e-50 (criterion='absolute' is the literal rule)",
            "the threshold search is reconstructed: only the score is public, in code of the same group",
            "one range for each row, not one for each layer",
            "refinement is (1 - a) times the label loss plus a times the divergence from the float model; a is not "
            "public, 0.5 here",
        ),
    ),
)
