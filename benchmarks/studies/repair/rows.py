"""Tasks of the study and chains of repair that are made, not found: programs broken on purpose, explained, and mended.

A task asks for two or three steps of arithmetic ("Write a function f(x) that doubles it, then adds 1."); no document that the
playground's base has read asks for steps. Which tasks are trained on and which are held out is decided by the steps. Programs are
interpreted (`fulgurite.data.playground.content.interpreter`), never executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulgurite.data.playground.content.interpreter import Program
from fulgurite.data.playground.draw import Draw, split_of
from fulgurite.evaluation.repair.feedback import error_fields
from fulgurite.evaluation.repair.prompts import Templates

__all__ = ["PROMPTS", "Broken", "StepTask", "broken", "chain_rows", "mbpp_row", "tasks", "writing_rows"]

# Short prompts: what a large model's window hardly notices fills that of a tiny one.
PROMPTS = Path(__file__).parent / "prompts"
_NAME = "f"  # of every function: the base cannot copy a name, which would be all that there is to repair
# Without numbers of the task's own: after 300 steps the base chose the right operations, and the numbers by chance.
_STEPS = {
    "adds 1": "x + 1",
    "adds 10": "x + 10",
    "subtracts 1": "x - 1",
    "doubles it": "2 * x",
    "triples it": "3 * x",
    "squares it": "x * x",
    "negates it": "-x",
}
_TESTS = 4  # asserts of a task; the first of them is shown
_FIRST_ID = 1001  # beyond the ids of MBPP's own splits
Row = dict[str, Any]


@dataclass(frozen=True)
class StepTask:
    """A function of one whole number.

    Attributes:
        name: of the function.
        steps: what it does, in order.
        inputs: arguments of its tests, each once.
    """

    name: str
    steps: tuple[str, ...]
    inputs: tuple[int, ...]

    @property
    def text(self) -> str:
        """The request, without a test."""
        return f"Write a function {self.name}(x) that {', then '.join(self.steps)}."

    @property
    def source(self) -> str:
        """The task's own program."""
        return _source(self.name, self.steps)

    @property
    def tests(self) -> tuple[str, ...]:
        """Asserts, the shown one first."""
        return tuple(f"assert {self.name}({x}) == {_value(self.source, self.name, x)}" for x in self.inputs)

    @property
    def shown(self) -> str:
        """The request as the loop's prompts show it."""
        return f"{self.text}\nThe program should pass this test:\n{self.tests[0]}"


@dataclass(frozen=True)
class Broken:
    """A wrong program of a task.

    Attributes:
        source: the program.
        why: what is wrong and how to change it, in words.
        outcome: of its run, as the loop keeps it.
    """

    source: str
    why: str
    outcome: dict[str, Any]


def tasks(split: str, count: int, seed: object = 0) -> list[StepTask]:
    """Tasks, each list of steps once.

    Args:
        split: train, validation or test, to which the steps belong.
        count: how many.
        seed: equal seeds give equal tasks.
    """
    draw, found = Draw(f"repair|{split}|{seed}", split), {}
    while len(found) < count:
        steps = tuple(_step(draw) for _ in range(draw.integer(2, 3)))
        if split_of(*steps) == split and steps not in found:
            inputs = tuple(draw.sample(range(13), _TESTS))
            found[steps] = StepTask(_NAME, steps, inputs)
    return list(found.values())


def mbpp_row(task: StepTask, number: int) -> Row:
    """A task in MBPP's schema.

    Args:
        task: the task.
        number: its place, from 0.
    """
    return {
        "task_id": _FIRST_ID + number,
        "text": task.text,
        "code": task.source,
        "test_list": list(task.tests),
        "test_setup_code": "",
    }


def broken(task: StepTask, draw: Draw) -> Broken:
    """A program with one or two mistakes, or that returns nothing; it fails at least one test of the task.

    Args:
        task: the task.
        draw: for the mistakes.
    """
    while True:
        source, why = _mistaken(task, draw)
        for test, x in zip(task.tests, task.inputs, strict=True):
            given, wanted = _value(source, task.name, x), _value(task.source, task.name, x)
            if given != wanted:
                outcome = {"status": "failed", "type": "AssertionError", "source": test}
                return Broken(source, why, {**outcome, "actual": str(given), "expected": str(wanted)})


def writing_rows(task: StepTask, templates: Templates) -> list[Row]:
    """Conversations of a task without repairs: its program, and tests.

    Args:
        task: the task.
        templates: of the prompts.
    """
    fields = {"task": task.shown, "entry_point": task.name}
    answers = {"write": _block(task.source), "tests": "\n".join(task.tests[1:])}
    return [_row(templates.text(name, True, fields), answer) for name, answer in answers.items()]


def chain_rows(task: StepTask, wrong: Broken, templates: Templates) -> list[Row]:
    """Conversations of one repair: explanation, mended program, and the mended program of both baselines of the loop.

    Args:
        task: the task.
        wrong: a program of it.
        templates: of the prompts.
    """
    fields = {
        "task": task.shown,
        "entry_point": task.name,
        "program": wrong.source.strip("\n"),
        "explanation": wrong.why,
        "turn": 1,
        **error_fields(wrong.outcome, wrong.source, task.name),
    }
    mended = _block(task.source)
    answers = {"teach": wrong.why, "repair": mended, "repair_error": mended, "repair_steps": f"{wrong.why}\n{mended}"}
    return [_row(templates.text(name, True, fields), answer) for name, answer in answers.items()]


def _step(draw: Draw) -> str:
    return draw.pick(tuple(_STEPS))


def _source(name: str, steps: Sequence[str], returned: str = "    return x\n") -> str:
    lines = "".join(f"    x = {_STEPS[step]}\n" for step in steps)
    return f"def {name}(x):\n{lines}{returned}"


def _value(source: str, name: str, x: int) -> Any:
    return Program(source).call(name, x)


def _mistaken(task: StepTask, draw: Draw) -> tuple[str, str]:
    """A program with a mistake, and what is to be said about it."""
    steps, place = list(task.steps), draw.integer(0, len(task.steps) - 1)
    kind = draw.integer(0, 9)
    if kind == 0:
        return _source(task.name, steps, ""), "The program returns nothing: its last line must return x."
    if kind == 1:
        left = steps[:place] + steps[place + 1 :]
        return _source(task.name, left), f"Step {place + 1} is missing: {steps[place]}."
    if kind == 2:
        first = min(place, len(steps) - 2)
        steps[first], steps[first + 1] = steps[first + 1], steps[first]
        return _source(task.name, steps), f"Steps {first + 1} and {first + 2} stand in the wrong order."
    places = sorted({place, draw.integer(0, len(steps) - 1)}) if draw.chance(0.3) else [place]
    said = []
    for at in places:
        right, steps[at] = steps[at], _step(draw)
        if steps[at] != right:
            said.append(f"Step {at + 1}: {right}, not {steps[at]}.")
    return _source(task.name, steps), " ".join(said)


def _block(source: str) -> str:
    return f"```python\n{source}```"


def _row(prompt: str, answer: str) -> Row:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
