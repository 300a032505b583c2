"""Rewards by a task's checker: right or wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fulgurite.evaluation.judging.verdicts import How, Verdict
from fulgurite.evaluation.selection.candidates import Found
from fulgurite.evaluation.selection.scorers import Asked
from fulgurite.evaluation.tasks.task import Item, Task

__all__ = ["CheckerReward"]


class CheckerReward:
    """A task's checker: 1 for a right answer, 0 for a wrong one, and for a text in which no answer stands.

    Args:
        task: one of `fulgurite evaluate` whose answers are judged.
        how: programs are run.
    """

    def __init__(self, task: Task, how: How | None = None) -> None:
        if task.judge is None:
            raise ValueError(
                f"{task.name} compares log-likelihoods of choices and judges no answers; take a task of answers"
            )
        self._task, self._judge, self._how = task, task.judge, how or How()
        self._judge.check(self._how)
        self.name = f"task:{task.name}"
        self.omitted: Counter[str] = Counter()
        self.example: str | None = None

    def identity(self) -> dict[str, Any]:
        """Task, version and judge."""
        return {"task": self._task.name, "version": self._task.version, "judge": self._judge.identity(self._how)}

    def score(self, asked: Sequence[Asked]) -> Found:
        """As Scorer.score."""
        found: Found = [0.0] * len(asked)
        pairs: list[tuple[Item, str]] = []
        places: list[int] = []
        for place, each in enumerate(asked):
            if each.item is None:
                raise ValueError(
                    f"{each.where}: {self.name} needs the row's right answer, and no item of the task was given"
                )
            answer = self._task.answer(each.text, each.item)
            if answer is not None:
                pairs.append((each.item, answer))
                places.append(place)

        def done(number: int, verdict: Verdict) -> None:
            found[places[number]] = verdict.correct
            if verdict.correct is None:
                self.omitted[f"not judged ({verdict.status})"] += 1

        if pairs:
            self._judge.judge(pairs, done, self._how)
        return found
