"""The plain baseline: one precision everywhere, or random sub-groups at the next one; the same training as `mpq`."""

from ..core import METHODS, MethodSpec, Part, StageSpec
from .mpq import DISTILLATION

UNIFORM = METHODS.add(
    "uniform",
    MethodSpec(
        name="uniform",
        summary="One precision for all sub-groups, or the next one for a random share of them where the budget lies "
        "between two. Trained like `mpq`: the baseline that a search must beat at equal bytes.",
        paper="the baseline of mixed precision: LSQ (Esser et al., ICLR 2020) with distillation as in TernaryBERT",
        config={"bits": 2, "quantizer": "lsq"},
        allocator=Part("uniform", fraction=True),
        stages=(StageSpec("qat", objectives=DISTILLATION),),
        deviations=(
            "for a budget between two precisions give the candidates, bits=(2, 3, 4, 8): random whole sub-groups get "
            "the next higher one, as many as fit",
            "one learned step for each sub-group, not for each matrix",
        ),
    ),
)
