"""SDQ (Huang et al., ICML 2022): precisions drawn between neighbours, going down; then training near the levels."""

from ..core import METHODS, MethodSpec, StageSpec

SDQ = METHODS.add(
    "sdq",
    MethodSpec(
        name="sdq",
        summary="In each step every matrix is at one of two neighbouring precisions, drawn with a probability that "
        "learns with the weights; it begins at the highest, and goes down for good where the higher one is hardly "
        "drawn any more. Errors of rounding hold it up, the size pulls it down. The found precisions are then "
        "trained with the float model's logits and a term that gathers the weights around their levels.",
        paper="Huang et al., SDQ: Stochastic Differentiable Quantization with Mixed Precision, ICML 2022",
        config={"bits": (1, 2, 3, 4, 6, 8), "groups": "matrix", "quantizer": "lsq", "gate": "neighbour"},
        stages=(
            StageSpec(
                "search",
                objectives={"task": {}, "quantization-error": {"weight": 0.1}},
                strategy="descending",
            ),
            StageSpec("qat", objectives={"soft-labels": {}, "bin-regularisation": {"weight": 0.1}}),
        ),
        deviations=(
            "reconstructed: the paper's code is not public, and neither are the quantization-error regulariser, where "
            "beta starts (0.9) and is kept (0.05 to 0.95), its rate, and when a layer goes down (beta below 0.2)",
            "with a budget the size penalty is a price that rises until it is met, the result is projected into it, "
            "and what it leaves goes to the matrices that were drawn higher most often; without one, lambda times the "
            "cost as in the paper: strategy_options={'penalty_options': {'strength': ...}} traces the front",
            "one draw for each matrix and training step, shared by its micro-batches and processes; with "
            "groups=128 each sub-group has its own",
            "weights are rounded on LSQ's learned grid in both phases; the paper's rescaling by the mean of |W| clips "
            "so much that its error is twice the optimum at 3 bits and 400 times at 8",
            "the second phase goes on with the weights of the first, and has the loss of the teacher's logits alone",
            "embedding tables, which the paper's networks lack, are not searched; activations have one dynamic range "
            "per token, at the bits of activation_bits",
        ),
    ),
)
