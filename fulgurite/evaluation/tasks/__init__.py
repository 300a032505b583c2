"""The tasks that a model can be evaluated on; importing a file of these rooms registers its tasks."""

from fulgurite.evaluation.tasks.mathematics import word_problems
from fulgurite.evaluation.tasks.task import TASKS, Hub, Item, Task, find_tasks, register

__all__ = ["TASKS", "Hub", "Item", "Task", "find_tasks", "register"]
