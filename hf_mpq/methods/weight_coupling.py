"""One-shot weight coupling (RFQuant, Tang et al., CVPR 2024): one super-net for all budgets, not trained again."""

from ..core import METHODS, MethodSpec, Part, StageSpec

_OBJECTIVES = {"task": {"weight": 0.5}, "soft-labels": {"weight": 0.5}, "distortion": {"weight": 0.01}}

WEIGHT_COUPLING = METHODS.add(
    "weight-coupling",
    MethodSpec(
        name="weight-coupling",
        summary="One set of weights is trained at many precisions at once: every step has a pass at the highest ones, "
        "which learns from labels and the float model, and three at precisions drawn for each matrix, taught by it. "
        "The matrices that low precisions unsettle most lose them for a while. A greedy search on the trained model "
        "then finds the precisions of a budget, or of several, and nothing is trained again.",
        paper="Tang et al., Retraining-free Model Quantization via One-Shot Weight-Coupling Learning, CVPR 2024",
        config={"bits": (2, 3, 4, 6, 8), "groups": "matrix", "quantizer": "lsq", "gate": "sampled"},
        stages=(
            StageSpec(
                "supernet",
                objectives=_OBJECTIVES,
                strategy=Part("weight-coupling", paths=3, allocator=Part("bidirectional", measured=8)),
                schedules={"turbulence": {}},
            ),
        ),
        retraining_free=True,
        deviations=(
            "activations stay at 8 bits unless several are given, activation_bits=(2, 3, 4, 6, 8): these are drawn and "
            "searched too, as in the paper, in one search with the weights and not after them; only budgets that count "
            "activations lower them",
            "the maximum path is 8 bits and is taught by the float model beside its labels; the paper's are 6 bits and "
            "labels alone",
            "there is no batch normalisation to keep for every pair of precisions, nor to estimate anew: layer "
            "normalisation is shared by all paths",
            "mitigation compares hidden states of encoder layers, each by the share of its weights at their lowest "
            "precision",
            "steps begin at a scan of the squared error and move by shares of themselves, with LSQ's gradient scale; "
            "the optimizer is the trainer's, without a moving average of the weights and clipped by norm",
            "left out: the pull towards the lowest precision's levels in the later epochs, and the weight decay taken "
            "back inside of the 2-bit range (the objective 'bin-regularisation' is there for the first)",
            "the search measures the divergence from the teacher on the same calibration rows in every step, of the "
            "8 most promising moves, and improves the assignment within the budget; the paper takes the error on one "
            "batch, of all moves, and stops at its target: allocator={'name': 'bidirectional', 'patience': 0}",
            "precisions that the scheduler took away come back in the search where nothing else meets the budget",
            "without training (hf_mpq.compress) the method has this library's default scorer and allocator",
        ),
    ),
)
