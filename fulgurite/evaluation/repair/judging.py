"""Verdicts on the programs of one stage of the loop, on the tests of the feedback mode and on the hidden ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fulgurite.evaluation.repair.book import Place, Repaired
from fulgurite.evaluation.repair.examples import asserts_in
from fulgurite.evaluation.repair.feedback import NO_PROGRAM, NOTHING, run_jobs
from fulgurite.evaluation.repair.plan import SHARED, RepairPlan
from fulgurite.evaluation.repair.problems import Problem, judge_of
from fulgurite.sandbox import Job

__all__ = ["Verdicts"]


class Verdicts:
    """Runs programs and keeps what is said.

    Args:
        plan: what is run.
        done: where answers are, and where verdicts and troubles go.
    """

    def __init__(self, plan: RepairPlan, done: Repaired) -> None:
        self.plan, self.done = plan, done
        self.problems = {problem.item.key: problem for problem in plan.problems}
        self.ran: dict[Any, dict[str, Any]] = {}  # outcomes by item, program and tests
        for record in done.book:
            if record["step"] == "verdict" and record["program"] is not None:
                item, program = record["item"], record["program"]
                self.ran[item, program, None] = record["hidden"]
                self.ran[item, program, tuple(record["tests"])] = record["feedback"]

    def _tests(self, problem: Problem, index: int) -> tuple[str, ...]:
        """The asserts of the feedback mode; of hidden none, since there the task's own test speaks."""
        if self.plan.feedback == "visible":
            return problem.examples
        record = self.done.book.get(Place(SHARED, problem.item.key, index, 0), "tests")
        if self.plan.feedback == "hidden" or record is None:
            return ()
        prompt = record["prompt"]
        lead = prompt.rpartition("```python\n")[2] if isinstance(prompt, str) else ""
        text: str = record["text"]  # which may begin the assert anew that the prompt has begun
        return asserts_in(lead + text, problem.entry_point) or asserts_in(text, problem.entry_point)

    def judge(self, places: Sequence[Place]) -> None:
        """A verdict on the program of each place that has one and is not judged; equal programs are run once.

        Args:
            places: of one stage.
        """
        waiting: dict[Any, list[tuple[Place, Callable[[], None]]]] = {}
        jobs: dict[Any, Job] = {}
        for place in places:
            problem = self.problems[place.item]
            answer = self.done.book.get(place, "program")
            given = problem.given if place.turn == 0 else None
            if self.done.book.get(place, "verdict") is not None or (answer is None and given is None):
                continue
            if self.done.troubled(place.method, place.item, place.index):
                continue
            program = given if answer is None else problem.program(answer["text"])
            tests = self._tests(problem, place.index)
            write = self._writing(place, program, tests)
            missing = [] if program is None else self._missing(place.item, program, tests)
            for key in missing:
                waiting.setdefault(key, []).append((place, write))
                own = judge_of(self.plan.task).job(problem.item, str(program))
                jobs[key] = own if key[2] is None else problem.check(str(program), tests)
            if not missing:
                write()
        self._run(jobs, waiting)

    def _missing(
        self, item: str, program: str, tests: tuple[str, ...]
    ) -> list[tuple[str, str, tuple[str, ...] | None]]:
        """What has to be run: the hidden tests, and those of the feedback mode, unless an equal program was run against them."""
        keys: list[tuple[str, str, tuple[str, ...] | None]] = [(item, program, None)]
        keys += [(item, program, tests)] if tests else []
        return [key for key in keys if key not in self.ran]

    def _run(self, jobs: Mapping[Any, Job], waiting: Mapping[Any, list[tuple[Place, Callable[[], None]]]]) -> None:
        keys = list(jobs)

        def done(number: int, outcome: dict[str, Any] | None, why: str) -> None:
            if outcome is not None:
                self.ran[keys[number]] = outcome
            for place, write in waiting[keys[number]]:
                if outcome is None:
                    self.done.trouble(place, f"the program could not be run: {why}"[:300])
                write()

        if keys:
            run_jobs([jobs[key] for key in keys], self.plan.how, done)

    def _writing(self, place: Place, program: str | None, tests: tuple[str, ...]) -> Callable[[], None]:
        """Writes the verdict as soon as both outcomes are there."""

        def write() -> None:
            if program is None:
                hidden: dict[str, Any] | None = NO_PROGRAM
                feedback: dict[str, Any] | None = NO_PROGRAM
            else:
                hidden = self.ran.get((place.item, program, None))
                feedback = self.ran.get((place.item, program, tests)) if tests else NOTHING
                feedback = hidden if self.plan.feedback == "hidden" else feedback
            if hidden is None or feedback is None or self.done.book.get(place, "verdict") is not None:
                return
            content = {"program": program, "tests": list(tests)}
            self.done.book.add(place.record("verdict", {**content, "feedback": feedback, "hidden": hidden}))

        return write
