"""All tasks by name."""

from hf_mpq.core import unknown
from hf_mpq.tasks.docstrings import DOCSTRINGS
from hf_mpq.tasks.glue import GLUE
from hf_mpq.tasks.question_answering import SQUAD
from hf_mpq.tasks.task import Task
from hf_mpq.tasks.token_classification import CONLL2003

TASKS: dict[str, Task] = {task.name: task for task in (*GLUE, SQUAD, CONLL2003, DOCSTRINGS)}


def get_task(name: str) -> Task:
    """The task called `name`, in whatever case.

    Raises:
        ValueError: there is none; the message lists the known names.
    """
    spelt = name.casefold()
    if spelt not in TASKS:
        raise ValueError(unknown("task", name, TASKS))
    return TASKS[spelt]
