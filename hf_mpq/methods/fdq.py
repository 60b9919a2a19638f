"""FDQ (Schaefer et al., 2022): steps and ranges are learned, and bits follow from them, for weights and activations."""

from ..core import METHODS, MethodSpec, Part, StageSpec

FDQ = METHODS.add(
    "fdq",
    MethodSpec(
        name="fdq",
        summary="Each sub-group of weights and each input of a matrix learns the step and the range of its own grid, "
        "and has as many bits as the two need. Weights learn in every step, steps and ranges in every 20th, pulled "
        "into a budget of weights and one of activations at once: `budget=['encoder:20MiB', 'activations:2500kB']`. "
        "Then the bits are decided and the weights trained on grids that stand still.",
        paper="Schaefer et al., Edge Inference with Fully Differentiable Quantized Mixed Precision Neural Networks, "
        "2022 (arXiv 2206.07741)",
        config={
            "bits": (2, 3, 4, 5, 6, 7, 8),
            "quantizer": Part("learned-range", gradient="ewgs"),
            "gate": "learned-range",
            "activation": Part("learned-range", gradient="inverse-tanh"),
            "activation_bits": (2, 3, 4, 5, 6, 7, 8),
            "attention_bits": 8,
        },
        stages=(
            StageSpec("search", strategy=Part("phases", warmup=0.2), arguments={"scale_learning_rate": 200.0}),
            StageSpec("finetune", trainable=("weights",)),
        ),
        deviations=(
            "the paper goes on from the best checkpoint that met both budgets; here no checkpoint is chosen, and the "
            "last state of the search is projected into the budgets, by how far each precision is from the learned one",
            "once bits are decided the step is x_max / (2^(b-1) - 1), so that no level of the packed codes is idle, "
            "and the last phase trains on that grid; the paper keeps the learned step",
            "steps and ranges change by shares of their size, by Adam without memory of the steps between (steps of "
            "gates 0.1, ranges 200 times the weights' rate, for they move every 20th step); the paper has RMSprop at "
            "the weights' rate or a hundredth of it, and clips their gradients",
            "a step lies between those of 2 and 8 bits of its range, rather than between two constants; no step is "
            "rounded to a power of two",
            "a modified gradient of rounding reaches the weights and activations; those of steps and ranges are "
            "straight-through: quantizer_options={} and activation_options={} leave it off everywhere",
            "the slices of a tensor are the sub-groups of rows; inputs have one grid for each matrix, signed, and the "
            "operands of the attention products 8 bits",
            "the penalty is the paper's squared hinge of each budget, relative to the budget; pre-training is the "
            "first fifth of the search stage, where steps and ranges stand still; the weights take the trainer's AdamW "
            "and schedule",
            "embedding tables and the pooler, which the paper's networks lack, are not searched, and their scales are "
            "found by least squared error and constant",
        ),
    ),
)
