"""AQ-BERT (Zhao et al., IJCAI 2021): pruning and precision of every sub-group in one differentiable search."""

from ..core import METHODS, MethodSpec, StageSpec

_PAPER = "Zhao et al., Automatic Mixed-Precision Quantization Search of BERT, IJCAI 2021"
_CONFIG = {
    "bits": (0, 2, 4),
    "groups": 128,
    "quantizer": "minmax",
    "gate": "gumbel",
    "embedding_bits": 8,
    "activation_bits": 8,
}
_DEVIATIONS = (
    "first order (xi = 0): the paper prints the unrolled gradient and says that both agree near the inner optimum, but "
    "not which one was run",
    "the search slice is a share of the training set (search_fraction, 20 %), never the reported dev set; the paper "
    "does not say how its validation data is made",
    "after the search, training starts from the weights as they were loaded; the paper's text says random weights: "
    "MPQTrainingArguments(reinit='random'), and 'pretrained' for the checkpoint before fine-tuning",
    "cost counts every sub-group by its weights, in stored bytes; the paper's sum is over sub-groups alone",
    "the actual size C_O that gates the penalty is that of the likeliest precisions, which are what argmax ships",
    "lambda, tolerance, temperatures, N0 and N1 are not in the paper: lambda moves the mean logit by 3 over the "
    "search, the tolerance is 2 %, the temperature falls from 5 to 0.3 by epochs after one epoch of warm-up",
    "the expected size is that of the gates' probabilities; the paper's weighs them with the drawn sample O",
    "the mixture is soft in forward, which the paper implies by 'mixed operations' but does not print",
    "the offset min A is added back to code / q, which the paper's formula leaves out",
    "biases of pruned rows are kept, and folded into the next layer where that is exact; the paper does not say",
    "activations have one dynamic range per token; the paper says 8 bits only",
)


def _stages(objectives: dict) -> tuple[StageSpec, ...]:
    return (
        StageSpec("search", objectives=objectives, strategy="bilevel"),
        StageSpec("retrain", objectives=objectives, start="loaded"),
    )


AQ_BERT = METHODS.add(
    "aq-bert",
    MethodSpec(
        name="aq-bert",
        summary="Every sub-group of output neurons gets its own precision; 0 bits prunes it. A gate for each is "
        "searched on one slice of the training set while the weights learn on the other, under a penalty on "
        "the size. Then the weights are trained anew at the precisions that the gates chose.",
        paper=_PAPER,
        config=_CONFIG,
        stages=_stages({"task": {}}),
        deviations=_DEVIATIONS,
    ),
)

AQ_BERT_KD = METHODS.add(
    "aq-bert+kd",
    MethodSpec(
        name="aq-bert+kd",
        summary="AQ-BERT's search and training, but towards a float teacher's outputs and hidden states instead of "
        "the labels. Everything else is as in `aq-bert`.",
        paper=_PAPER,
        config=_CONFIG,
        stages=_stages({"soft-labels": {}, "hidden-states": {}}),
        deviations=(
            "distils from a float teacher in both stages, instead of the labels that the paper trains on (its "
            "'distillation' is a distilled checkpoint to start from)",
            *_DEVIATIONS,
        ),
    ),
)
