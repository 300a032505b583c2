"""What a judge says about an answer, and what every judge is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["How", "Judge", "TextJudge", "Verdict"]


@dataclass(frozen=True)
class Verdict:
    """About one answer.

    Attributes:
        correct: 1 or 0 (or between, where a task gives part of the marks); None where nothing could be found out, because what
            judges is broken.
        status: one word: right, wrong, or what the sandbox or the comparison says.
        detail: one line for a person.
        group: the answer in its canonical form: equal answers have equal groups, which majorities are counted by. None: the
            answer has no part in them.
    """

    correct: float | None
    status: str
    detail: str = ""
    group: str | None = None


@dataclass(frozen=True)
class How:
    """What the user chose about judging.

    Attributes:
        sandbox: how generated programs are held: auto, strict, or the name of a layer.
        seconds: of a program's test, and of one comparison of expressions.
        workers: how many run at a time; None: as many as there are processors.

    Raises:
        ValueError: no finite time above 0; fewer than one worker.
    """

    sandbox: str = "auto"
    seconds: float = 10.0
    workers: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf or (self.workers is not None and self.workers < 1):
            raise ValueError(
                f"judging: time_limit={self.seconds}, workers={self.workers} were given; needed are seconds above 0, and 1 "
                "worker or more; correct them"
            )


class Judge(Protocol):
    """Decides about answers of one task.

    Attributes:
        metric: what the share of right answers is called: accuracy, or pass@1 of programs.
    """

    metric: str

    def identity(self, how: How) -> dict[str, Any]:
        """What verdicts depend on beside answer and target: plain data for JSON."""

    def check(self, how: How) -> None:
        """Raises an error, in one sentence, if this judge cannot work here; asked before anything is generated."""

    def judge(self, pairs: Sequence[tuple[Any, str]], done: Callable[[int, Verdict], None], how: How) -> None:
        """A verdict on each pair of an item and its answer, handed over with the pair's number as soon as it is final.

        Args:
            pairs: items with answers.
            done: called in this thread.
            how: what the user chose.
        """


class TextJudge:
    """Compares texts by a function.

    Args:
        same: whether an answer is right: (answer, target) to bool.
        canonical: form in which answers count for majorities.
        version: counts up with every change of either.
    """

    metric = "accuracy"

    def __init__(self, same: Callable[[str, Any], bool], canonical: Callable[[str], str], version: int = 1) -> None:
        self.same, self.canonical, self.version = same, canonical, version

    def identity(self, how: How) -> dict[str, Any]:
        """Name and version."""
        return {"judge": f"{self.same.__module__}.{self.same.__qualname__}", "version": self.version}

    def check(self, how: How) -> None:
        """Nothing can be missing."""

    def judge(self, pairs: Sequence[tuple[Any, str]], done: Callable[[int, Verdict], None], how: How) -> None:
        """As Judge.judge."""
        for number, (item, answer) in enumerate(pairs):
            right = self.same(answer, item.target)
            done(number, Verdict(float(right), "right" if right else "wrong", group=self.canonical(answer)))
