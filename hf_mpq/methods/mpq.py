"""Our default: from the training-free assignment, gates and weights learn together; then the weights alone."""

from ..core import METHODS, MethodSpec, Part, StageSpec

DISTILLATION = {"soft-labels": {}, "hidden-states": {}}
"""TernaryBERT's targets, but for attention scores; no label loss."""

MPQ = METHODS.add(
    "mpq",
    MethodSpec(
        name="mpq",
        summary="Scores of every sub-group and precision give a training-free assignment under the budget. From there "
        "gates and weights learn together, distilled from the float model; the better of the searched and the "
        "training-free assignment goes on. The weights are then trained at it.",
        paper="our own choice of parts; docs/results has what each is worth",
        config={"bits": (2, 3, 4, 8), "quantizer": "lsq", "gate": "softmax"},
        scorer="fisher",
        allocator="lagrangian",
        stages=(
            StageSpec("search", share=0.3, objectives=DISTILLATION, strategy=Part("joint", start="scores")),
            StageSpec("qat", share=0.7, objectives=DISTILLATION),
        ),
        selects=True,
        deviations=(
            "no 0 bits among the candidates: what many pruned sub-groups do together is far more than their scores "
            "say; bits=(0, 2, 3, 4, 8) searches them too",
            "without a budget there is no training-free assignment to start from: give one",
        ),
    ),
)
