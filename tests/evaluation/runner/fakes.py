"""Tasks and writers without a model: sums whose answers are made up, right or wrong by a rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fulgurite.evaluation.judging.numbers import canonical_number, final_number, same_number
from fulgurite.evaluation.judging.verdicts import TextJudge
from fulgurite.evaluation.likelihood import ChoiceLikelihoods, ChoiceScorer
from fulgurite.evaluation.runner.plan import Plan
from fulgurite.evaluation.tasks.choices.accuracy import accuracy, with_blank
from fulgurite.evaluation.tasks.rows import Items
from fulgurite.evaluation.tasks.task import Item, Task
from fulgurite.generation.protocol import Prompt, Request, Sample, SamplingSettings, jobs_of

SUMS = Task(
    "sums",
    "sums of two numbers",
    1,
    lambda row, number: Item(str(number), row["question"], row["answer"]),
    TextJudge(same_number, canonical_number),
    answer=lambda text, item: final_number(text),
)
CHOICES = Task("choices", "choices of numbers", 1, lambda row, number: Item(str(number), "", 0), metrics=accuracy)


def plan_of(folder: Path, items: int = 5, n: int = 1, task: Task = SUMS, **options: Any) -> Plan:
    """A plan over sums i + i."""
    settings = options.pop("settings", SamplingSettings(temperature=0.8 if n > 1 else 0.0))
    if task.kind == "choices":
        found = [Item(str(i), f"Which is {i}?", i % 2, with_blank(["even", "odd"])) for i in range(items)]
    else:
        found = [Item(str(i), f"What is {i} + {i}?", str(2 * i)) for i in range(items)]
    return Plan(task, Items(found, "made up", options.pop("bad", []), items), folder, settings, n, **options)


def answer_rule(prompt: str, index: int) -> str:
    """Right for two samples of three; every seventh item has no number."""
    number = int(prompt.split()[2])
    if number % 7 == 6:
        return "I do not know."
    return f"That is {2 * number if (number + index) % 3 else 2 * number + 1}."


class FakeBackend:
    """Answers by a rule, and counts what it was asked for."""

    def __init__(
        self,
        rule: Callable[[str, int], str] = answer_rule,
        name: str = "fake",
        pause: float = 0.0,
        finish: str = "stop",
        failing: Sequence[int] = (),
    ) -> None:
        self.rule, self.name, self.pause, self.finish, self.failing = rule, name, pause, finish, failing
        self.asked: list[tuple[str, int]] = []

    def identity(self) -> dict[str, Any]:
        return {"backend": "fake", "model": self.name, "revision": None, "adapter": None}

    def sample(
        self, requests: Sequence[Request | Prompt], n: int = 1, settings: SamplingSettings | None = None
    ) -> Iterator[Sample]:
        settings = settings or SamplingSettings()
        for job in jobs_of("FakeBackend", requests, n, settings):
            prompt = job.prompt if isinstance(job.prompt, str) else job.prompt[-1].content
            for index, seed in job.seeds.items():
                time.sleep(self.pause)
                self.asked.append((prompt, index))
                if len(self.asked) in self.failing:
                    yield Sample(job.place, index, "", "error", error="the server said 500")
                else:
                    yield Sample(job.place, index, self.rule(prompt, index), self.finish, seed=seed, token_ids=(1, 2))


class FakeScorer(ChoiceScorer):
    """Prefers the first choice; counts items."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def identity(self) -> dict[str, Any]:
        return {"backend": "fake scorer"}

    def score(
        self, asked: Sequence[tuple[str, Sequence[str]]], greedy: bool = False
    ) -> Iterator[tuple[int, ChoiceLikelihoods]]:
        for place, (context, choices) in enumerate(asked):
            self.asked.append(context)
            yield place, ChoiceLikelihoods([-1.0 - i for i in range(len(choices))], [1] * len(choices))
