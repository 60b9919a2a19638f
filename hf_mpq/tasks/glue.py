"""The nine tasks of GLUE (Wang et al. 2019).

The headline metric is the one that the BERT paper reports (Devlin et al. 2019, table 1): F1 for MRPC and QQP,
Spearman's correlation for STS-B, Matthews' correlation for CoLA, accuracy elsewhere.
"""

from .sequence_classification import SequenceClassification
from .source import HubDataset


def glue_task(
    name: str,
    text_columns: tuple[str, ...],
    label_names: tuple[str, ...],
    scores: tuple[str, ...] = ("accuracy",),
    **options,
) -> SequenceClassification:
    """A GLUE task; the first of `scores` is its headline."""
    return SequenceClassification(
        name=name,
        text_columns=text_columns,
        label_column="label",
        label_names=label_names,
        headline=scores[0],
        scores=scores,
        hub=HubDataset("nyu-mll/glue", name),
        **options,
    )


GLUE = (
    glue_task("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",)),
    glue_task("sst2", ("sentence",), ("negative", "positive")),
    glue_task("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("f1", "accuracy")),
    glue_task("stsb", ("sentence1", "sentence2"), (), ("spearmanr", "pearson"), regression=True),
    glue_task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy")),
    glue_task(
        "mnli",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        validation_split="validation_matched",
    ),
    glue_task("qnli", ("question", "sentence"), ("entailment", "not_entailment")),
    glue_task("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment")),
    glue_task("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment")),
)
