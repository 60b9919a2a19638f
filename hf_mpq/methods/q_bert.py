"""Q-BERT (Shen et al., AAAI 2020): bits of whole layers by the spread of their Hessian's top eigenvalue, group-wise."""

from ..core import METHODS, MethodSpec, Part, StageSpec

Q_BERT = METHODS.add(
    "q-bert",
    MethodSpec(
        name="q-bert",
        summary="Layers with a large and unsteady top eigenvalue of the Hessian get the more bits, the others the "
        "fewer. Weights are rounded in groups of rows and trained at that.",
        paper="Shen et al., Q-BERT: Hessian Based Ultra Low Precision Quantization of BERT, AAAI 2020",
        config={"bits": (2, 4), "groups": 128, "quantizer": "minmax", "embedding_bits": 8},
        scorer=Part("hessian", measure="eigenvalue", per="layer", splits=10, spread=1.0),
        allocator="sorted-layers",
        rounding="nearest",
        stages=(StageSpec("qat"),),
        deviations=(
            "sensitivity is |mean| + spread * std of the eigenvalue over parts of the data; sources disagree on the "
            "factor of the deviation (1 or 2), so it is the option `spread`",
            "sub-groups are contiguous output neurons of the whole matrix; 128 in q, k and v keep within heads",
            "by hand: allocator={'name': 'sorted-layers', 'count': 6}; by budget: the most layers at the higher "
            "precision that fit; fully automatic: allocator='lagrangian'",
            "the paper's results are after quantization-aware training: those of compress, without it, are lower",
        ),
    ),
)
