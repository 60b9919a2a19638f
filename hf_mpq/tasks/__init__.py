"""Tasks: labelled data, tokenization, the head that fits and the metric, by name.

task = get_task("sst2")
data = task.load()                                            # or load(data_dir="...") without a network
train = task.prepare(data["train"], tokenizer, max_length=128)
model = task.auto_class.from_pretrained("bert-base-uncased", **task.model_kwargs())
Trainer(model, train_dataset=train, data_collator=task.data_collator(tokenizer), ...)
"""

from .._extras import require

with require("tasks", "hf_mpq.tasks"):
    from .evaluation import evaluate_model, predict
    from .multi_label import MultiLabelClassification
    from .question_answering import QuestionAnswering
    from .ranking import ParagraphRanking, Ranking
    from .registry import TASKS, get_task
    from .sequence_classification import SequenceClassification
    from .squad_answers import Answer, postprocess
    from .subset import subset
    from .task import Task
    from .token_classification import TokenClassification
    from .vector_ranking import pair_similarities, ranking_scores

__all__ = [
    "TASKS",
    "Answer",
    "MultiLabelClassification",
    "ParagraphRanking",
    "QuestionAnswering",
    "Ranking",
    "SequenceClassification",
    "Task",
    "TokenClassification",
    "evaluate_model",
    "get_task",
    "pair_similarities",
    "postprocess",
    "predict",
    "ranking_scores",
    "subset",
]
