"""The objective of each task of :data:`fulgurite.models.TASKS`: a new task is one line in the table."""

from __future__ import annotations

from collections.abc import Callable

from fulgurite.lightning_modules.objectives.labels import Classification, Regression
from fulgurite.lightning_modules.objectives.language import LanguageModelling
from fulgurite.lightning_modules.objectives.step import Objective

__all__ = ["OBJECTIVES", "make_objective"]

OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "classification": Classification,
    "regression": Regression,
    "causal_lm": LanguageModelling,
    "seq2seq": lambda: LanguageModelling(shifted=False),
}


def make_objective(task: str) -> Objective:
    """A new objective for a task.

    Args:
        task: a key of :data:`OBJECTIVES`.
    """
    return OBJECTIVES[task]()
