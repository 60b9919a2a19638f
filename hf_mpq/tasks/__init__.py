"""Tasks: labelled data, tokenization, the head that fits and the metric, by name.

    task = get_task("sst2")
    data = task.load()                                            # or load(data_dir="...") without a network
    train = task.prepare(data["train"], tokenizer, max_length=128)
    model = task.auto_class.from_pretrained("bert-base-uncased", **task.model_kwargs())
    Trainer(model, train_dataset=train, data_collator=task.data_collator(tokenizer), ...)
"""

from hf_mpq.tasks.evaluation import evaluate_model, predict
from hf_mpq.tasks.multi_label import MultiLabelClassification
from hf_mpq.tasks.question_answering import QuestionAnswering
from hf_mpq.tasks.registry import TASKS, get_task
from hf_mpq.tasks.sequence_classification import SequenceClassification
from hf_mpq.tasks.squad_answers import Answer, postprocess
from hf_mpq.tasks.subset import subset
from hf_mpq.tasks.task import Task
from hf_mpq.tasks.token_classification import TokenClassification

__all__ = [
    "TASKS",
    "Answer",
    "MultiLabelClassification",
    "QuestionAnswering",
    "SequenceClassification",
    "Task",
    "TokenClassification",
    "evaluate_model",
    "get_task",
    "postprocess",
    "predict",
    "subset",
]
