"""RACE (arXiv 1704.04683): an article and its questions, the last of which is asked; acc only, as in lm-evaluation-harness.

Rows and prompt: :mod:`fulgurite.data.tasks.questions.race`.
"""

from __future__ import annotations

from fulgurite.data.tasks.questions.race import race_item
from fulgurite.evaluation.tasks.choices.accuracy import accuracy_alone
from fulgurite.evaluation.tasks.task import Task, register

__all__: list[str] = []

register(
    Task(
        "race",
        "RACE (high school): the article's last question after the others with their answers, by log-likelihood",
        1,
        race_item,
        files=("qa/race/expmrc-race-dev.head-110.json", "race/expmrc-race-dev.json", "race.json", "race.jsonl"),
        metrics=accuracy_alone,
    )
)
