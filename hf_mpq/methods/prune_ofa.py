"""Prune Once for All: a language model is pruned once, and its zeros stay for every task and for 8 bits."""

from ..core import METHODS, MethodSpec, Part, StageSpec

PAPER = "Zafrir et al., Prune Once for All: Sparse Pre-Trained Language Models, ENLSP workshop at NeurIPS 2021"
DISTILLED = {"task": {"weight": 0.5}, "soft-labels": {"weight": 0.5, "temperature": 2.0}}

PRUNE_OFA_PRETRAIN = METHODS.add(
    "prune-ofa-pretrain",
    MethodSpec(
        name="prune-ofa-pretrain",
        summary="The first half: nine tenths of the encoder's weights are pruned by magnitude, little by little, while "
        "the model goes on with its pre-training and the dense model teaches it. Nothing is rounded. "
        "`MPQTrainer.save_float` writes a plain float checkpoint with zeros; `prune-ofa` takes it to a task, and "
        "`recipes/pretrain_sparse.py` runs this on unlabelled text.",
        paper=PAPER,
        config={
            "bits": 8,
            "groups": "matrix",
            "mask": Part("element", density=0.1),
            "activation_bits": None,
            "embedding_bits": None,
            "projection_bits": None,
            "float_dtype": "float32",
        },
        rounding="nearest",
        stages=(
            StageSpec(
                "prune",
                objectives=DISTILLED,
                schedules={
                    "gradual-pruning": {"begin": 0.0, "end": 0.5, "every": 0.01, "until": 0.8, "rewind": True},
                },
                rounding=False,
            ),
        ),
        deviations=(
            "ties keep exactly as many weights as the ramp says; the authors' threshold drops all that are equal to it",
            "the teacher is the model as it was given; preparing it on the same text is a run of its own",
            "the pooler is not pruned, nor is what is outside the encoder; the authors prune every linear layer that "
            "is not of the head",
            "a model without a head is distilled from hidden states and value relations, which the paper lacks: "
            "stages={'prune': {'objectives': {'hidden-states': {}, 'value-relations': {}}}}",
        ),
    ),
)

PRUNE_OFA = METHODS.add(
    "prune-ofa",
    MethodSpec(
        name="prune-ofa",
        summary="The second half: the zeros of a model that was pruned before are locked, it is fine-tuned on a task "
        "in float, and then at 8 bits. Stored as runs, a tenth of the weights at 8 bits takes a twenty-fifth of float.",
        paper=PAPER,
        config={
            "bits": 8,
            "groups": "matrix",
            "quantizer": Part("symmetric", scale="max", two_bits="integer"),
            "mask": "locked",
            "activation": Part("static", decay=0.99),
            "activation_bits": 8,
            "embedding_bits": 8,
        },
        rounding="nearest",
        stages=(
            StageSpec("transfer", share=2.0, objectives={"task": {}}, rounding=False),
            StageSpec("qat", share=1.0, objectives={"task": {}}),
        ),
        deviations=(
            "a dense teacher that was fine-tuned on the task is an option, as in the authors' code: give MPQTrainer a "
            "teacher, and the stages {'objectives': {'task': {'weight': 0.5}, 'soft-labels': {'weight': 0.5, "
            "'temperature': 2.0}}}",
            "weight scales are set from the largest |w| when rounding begins, not read off the weights in every pass",
            "embeddings are rounded to 8 bits too, one scale per row; the authors leave them float",
            "outputs of linear layers are not rounded again, and biases are stored in float16, not in 32 bits",
        ),
    ),
)
