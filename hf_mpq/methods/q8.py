"""Q8BERT (Zafrir et al., 2019): 8 bits everywhere, trained through the rounding."""

from ..core import METHODS, MethodSpec, Part, StageSpec

Q8 = METHODS.add(
    "q8",
    MethodSpec(
        name="q8",
        summary="All weights and activations are rounded to 8 bits while the model is fine-tuned on its labels. One "
        "precision, nothing to search.",
        paper="Zafrir et al., Q8BERT: Quantized 8Bit BERT, EMC2 workshop at NeurIPS 2019",
        config={
            "bits": 8,
            "groups": "matrix",
            "quantizer": Part("symmetric", scale="max", two_bits="integer"),
            "activation": Part("static", symmetric=True),
            "activation_bits": 8,
            "embedding_bits": 8,
        },
        rounding="nearest",
        stages=(StageSpec("qat", objectives={"task": {}}),),
        deviations=(
            "weight scales are set once from the largest |w|, not read off the weights in every pass",
            "embeddings have one scale per row, not one per table",
            "outputs of linear layers are not rounded again, and biases are stored in float16, not in 32 bits",
        ),
    ),
)
