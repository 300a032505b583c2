"""Roles without a model: learners and a teacher that write by a rule, over tiny problems with values that nothing else holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.repair.loop import repair
from fulgurite.evaluation.repair.plan import RepairPlan, Role
from fulgurite.evaluation.repair.prompts import Templates
from fulgurite.evaluation.repair.results import RepairResult, summary
from fulgurite.evaluation.tasks import TASKS
from fulgurite.evaluation.tasks.rows import Items
from fulgurite.generation.protocol import Prompt, Request, Sample, SamplingSettings, jobs_of
from fulgurite.sandbox import Job

SHOWN, HIDDEN = (
    (7, 1009),
    ((11, 48013), (13, 97021)),
)  # added to the problem's number: nothing but the tests holds the sums


def row(number: int) -> dict[str, Any]:
    """A problem in HumanEval's schema: shift0 adds 1000 and so on; its docstring shows one sum, its test has two others."""
    name, step = f"shift{number}", 1002 + 50 * number
    asserts = "".join(f"    assert candidate({x + number}) == {x + number + step}\n" for x, _ in HIDDEN)
    shown = f">>> shift{number}({SHOWN[0]})\n    {SHOWN[0] + step}\n"
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": f'def {name}(x):\n    """Adds a fixed number to x.\n    {shown}    """\n',
        "entry_point": name,
        "canonical_solution": f"    return x + {step}\n",
        "test": f"def check(candidate):\n{asserts}",
    }


def hidden_values(number: int) -> list[str]:
    """What the hidden test of a problem expects."""
    return [str(x + number + 1002 + 50 * number) for x, _ in HIDDEN]


def right(number: int) -> str:
    return str(row(number)["canonical_solution"])


def call_of(key: str) -> tuple[str, int, int, int, str]:
    """Method, number of the problem, chain, turn and step of a request."""
    _, method, *item, index, turn, step = key.split("/")
    return method, int(item[-1]), int(index), int(turn), step


Rule = Callable[[str, int, int, int, str, int], str]


class Scripted:
    """Answers by a rule of method, problem, chain, turn, step and seed; counts what it was asked for."""

    def __init__(self, rule: Rule, name: str = "scripted", failing: Sequence[tuple[str, int, int, str]] = ()) -> None:
        self.rule, self.name, self.failing = rule, name, failing
        self.asked: list[str] = []

    def identity(self) -> dict[str, Any]:
        return {"backend": "scripted", "model": self.name}

    def sample(
        self, requests: Sequence[Request | Prompt], n: int = 1, settings: SamplingSettings | None = None
    ) -> Iterator[Sample]:
        for job, request in zip(
            jobs_of("Scripted", requests, n, settings or SamplingSettings()), requests, strict=True
        ):
            assert isinstance(request, Request)
            method, number, index, turn, step = call_of(request.key)
            for sample, seed in job.seeds.items():
                assert sample == index
                self.asked.append(request.key)
                if (method, number, turn, step) in self.failing:
                    yield Sample(job.place, sample, "", "error", error="the server said 500")
                    continue
                text = self.rule(method, number, index, turn, step, seed)
                yield Sample(job.place, sample, text, "stop", seed=seed, token_ids=tuple(range(len(text.split()))))


def rule(method: str, number: int, index: int, turn: int, step: str, seed: int) -> str:
    """Problem 0 is right at once; 1 is mended in turn 1 with a teacher and in turn 2 without; 2 never is, by the same program; 3
    has a NameError, which becomes an AssertionError and then nothing; 4 begins with prose; 5 has the shown value hard-coded.
    """
    if step == "explanation":
        return f"The number that shift{number} adds is wrong: look at the example again."
    if step == "tests":
        value = SHOWN[0] + 1002 + 50 * number
        return f"Some tests:\n```python\nassert shift{number}({SHOWN[0]}) == {value}\nassert other(1) == 2\n```"
    wrong, name = "    return x + 1\n", "    return x + step\n"
    if method == "sampling":
        return right(number) if seed % 5 == 0 else wrong
    if number in (0, 2):
        return right(number) if number == 0 else wrong
    if number == 1:
        return right(number) if turn >= (1 if method == "intervenor" else 2) else wrong
    if number == 3:
        return [name, wrong, right(number)][min(turn, 2)]
    if number == 4:
        return "I would rather not write a program today." if turn == 0 else right(number)
    return f"    if x == {SHOWN[0]}:\n        return {SHOWN[0] + 1002 + 50 * number}\n    return 0\n"


def made_plan(folder: Path, backend: Any = None, items: int = 6, teacher: Any = None, **options: Any) -> RepairPlan:
    """A plan over so many problems."""
    task = options.pop("task", TASKS["humaneval"])
    found: Items | None = options.pop("found", None)
    rows = options.pop("rows", None) or [row(number) for number in range(items)]
    settings = options.pop("settings", SamplingSettings(64, 0.2))
    learner = Role(backend or Scripted(rule), settings, options.pop("chat", False))
    taught = Role(teacher or learner.backend, settings, learner.chat)
    if found is None:
        found = Items([task.item(each, place) for place, each in enumerate(rows, 1)], "made up", [], len(rows))
    given = {"feedback": "hidden", "turns": 2, "how": How(seconds=5.0), "templates": Templates(), **options}
    return RepairPlan(task, found, folder, learner=learner, teacher=taught, **given)


def ran(plan: RepairPlan, **options: Any) -> RepairResult:
    """The summary of a run."""
    return summary(plan, repair(plan, silent=True, **options))


def run_here(jobs: Sequence[Job], how: Any, done: Callable[[int, dict[str, Any] | None, str], None]) -> None:
    """In place of the sandbox, for programs of the tests' own: a test or asserts, with the types of errors that it names."""
    for number, job in enumerate(jobs):
        space: dict[str, Any] = {}
        outcome: dict[str, Any] = {"status": "passed"}
        try:
            call = f"check({job.entry_point})" if "def check(" in job.test else ""
            exec(f"{job.program}\n{job.test}\n{call}", space)
        except Exception as error:
            outcome = {"status": "failed", "type": type(error).__name__, "message": str(error)}
        done(number, outcome, "")
