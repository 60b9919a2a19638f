"""Vertical layering: one checkpoint whose top bit planes are every lower precision, trained once for all of them."""

from ..core import METHODS, MethodSpec, Part, StageSpec
from .mpq import DISTILLATION

VERTICAL = METHODS.add(
    "vertical",
    MethodSpec(
        name="vertical",
        summary="One file for 8, 4, 3 and 2 bits: a lower precision is the top bit planes of the highest. Every step "
        "trains all of them, each taught by the one above and the highest by the float model, along the shortest "
        "vector that raises no precision's loss. What is served is chosen later, by `set_precision` or when the file "
        "is loaded.",
        paper="Wu et al., Vertical Layering of Quantized Neural Networks for Heterogeneous Inference, TPAMI 2023",
        config={"bits": (2, 3, 4, 8), "nested": True, "switchable_norms": True},
        stages=(StageSpec("once", objectives=DISTILLATION, strategy=Part("once", combine="min-norm")),),
        deviations=(
            "only the abstract of the paper says what it does, and no code is public: codes whose lower planes are "
            "dropped, training of all precisions at once and its multi-objective optimisation are from there, every "
            "equation is reconstructed",
            "the multi-objective step is the shortest vector in the convex hull of the precisions' gradients, solved "
            "exactly; strategy={'name': 'once', 'combine': 'sum'} trains by the mean of the losses",
            "scales start at the range where squared errors, each over the least that its precision could have, sum to "
            "the least; precisions above 4 bits count a third, over the least error of 4 bits; the paper says nothing",
            "teachers are one precision above, and the float model for the highest, by soft labels and hidden states; "
            "recursive supervision as in Any-Precision DNNs, without a label loss; a teacher among the precisions has "
            "dropout of its own",
            "each precision has scales and normalisation parameters of its own (switchable_norms), as batch "
            "normalisation in Any-Precision DNNs; the paper is about convolutional networks",
            "embedding tables and projections outside the encoder have the precision of the config in every precision",
        ),
    ),
)
