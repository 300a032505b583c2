"""The tasks that a model can be evaluated on; importing a file of these rooms registers its tasks."""

from fulgurite.evaluation.tasks.choices import arc, hellaswag, piqa, race, science, truthfulqa, webquestions
from fulgurite.evaluation.tasks.code import humaneval, humaneval_x, mbpp, repair, translation
from fulgurite.evaluation.tasks.mathematics import competition, theorems, word_problems
from fulgurite.evaluation.tasks.task import TASKS, Hub, Item, Task, find_tasks, register
from fulgurite.evaluation.tasks.text import bbh, bigbench, unnatural

__all__ = ["TASKS", "Hub", "Item", "Task", "find_tasks", "register"]
