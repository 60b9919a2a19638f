"""All tasks by name."""

from ..core import unknown
from .docstrings import DOCSTRINGS
from .glue import GLUE
from .question_answering import SQUAD
from .ranking import RANKING, SQUAD_RANKING
from .task import Task
from .token_classification import CONLL2003

TASKS: dict[str, Task] = {task.name: task for task in (*GLUE, SQUAD, CONLL2003, RANKING, SQUAD_RANKING, DOCSTRINGS)}


def get_task(name: str) -> Task:
    """The task called `name`, in whatever case.

    Raises:
        ValueError: there is none; the message lists the known names.
    """
    spelt = name.casefold()
    if spelt not in TASKS:
        raise ValueError(unknown("task", name, TASKS))
    return TASKS[spelt]
