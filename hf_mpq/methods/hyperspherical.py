"""Hyperspherical quantization (Liu et al., 2022): directions are pruned and re-initialised before they are ternary."""

from ..core import METHODS, MethodSpec, Part, StageSpec
from .mpq import DISTILLATION

HYPERSPHERICAL = METHODS.add(
    "hyperspherical",
    MethodSpec(
        name="hyperspherical",
        summary="Ternary weights, stored as a mask and one bit for each weight that it keeps. Rows are directions with "
        "a learned length. Before anything is rounded they are pruned little by little, and what is kept is moved "
        "towards its sign times the mean size, so that the ternary row points where the float row does; then scales "
        "and weights are trained through the rounding.",
        paper="Liu, Chen, Ma and Liu, Hyperspherical Quantization: Toward Smaller and More Accurate "
        "Models, WACV 2023 (arXiv 2212.12653)",
        config={
            "bits": 1,
            "groups": "channel",
            "quantizer": "lsq",
            "mask": Part("element", density=0.4),
            "transforms": {"unit-rows": {}},
        },
        rounding="nearest",
        outliers="none",
        stages=(
            StageSpec(
                "sphere",
                objectives=DISTILLATION,
                schedules={"gradual-pruning": {"end": 0.7}, "reinitialise": {"end": 0.7}},
                trainable=("weights",),
                rounding=False,
            ),
            StageSpec("ternary", objectives=DISTILLATION),
        ),
        deviations=(
            "only the abstract of the paper was at hand: unit rows, pruning and re-initialisation before ternary "
            "training, and the angle as their reason, are from there, every rule and number is reconstructed",
            "lengths start as those of the float rows, so that training starts from the float function",
            "which weights are zero is decided by the mask and not by a threshold in the ternary stage: a Gaussian's "
            "best threshold is half a step, and pruned weights have none below it",
            "weights are pruned by their size, length times direction, over a whole matrix, to a density of 0.4: "
            "mask={'name': 'element', 'density': 0.1} keeps a tenth",
            "the scale of a row is learned (LSQ) from where its squared error is least, which is the cosine times the "
            "scale that keeps its length",
            "distilled from the float model by soft labels and hidden states, as mpq; the objective 'cosine-distance' "
            "adds the angle to the loss",
            "embedding tables and matrices around the encoder have 8 bits",
        ),
    ),
)
