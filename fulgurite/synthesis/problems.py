"""Instructions with a right answer or tests: how an answer is taken from a text and judged, and the gold solution.

A problem is made of an item of a task of `fulgurite evaluate`, whose judge decides here too, or of a row of the user's own:

| column | meaning |
|---|---|
| instruction | the question |
| answer | the right answer: a number, an expression or a text |
| tests | asserts of a program, in place of an answer: a list, or one text |
| solution | a worked solution or the reference program; needed for gold hints only |

| kind | what an action is |
|---|---|
| Coding | a program, run against the tests |
| Math_CoT | reasoning that ends with the answer |
| Math_PoT | Python in blocks of code, whose last output is the answer; without a block the text is judged |
| Logic | reasoning that ends with the answer, compared as a text |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fulgurite.evaluation.judging.expressions import ExpressionJudge, canonical_expression
from fulgurite.evaluation.judging.numbers import canonical_number, final_number, same_number
from fulgurite.evaluation.judging.programs import ProgramJudge
from fulgurite.evaluation.judging.verdicts import Judge, TextJudge
from fulgurite.evaluation.tasks import Item, Task
from fulgurite.evaluation.tasks.code.mbpp import mbpp_job
from fulgurite.evaluation.tasks.code.programs import whole_program
from fulgurite.evaluation.tasks.mathematics.competition import expression_in

__all__ = ["KINDS", "TASK_PROBLEMS", "Problem", "masked", "own_problem", "problem_of"]

KINDS = ("Coding", "Math_CoT", "Math_PoT", "Logic")
_MASK = "[…]"
_ANSWER = re.compile(r"answer(?:\s+is)?\s*:?\s*\**\s*(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """An instruction whose answers can be judged.

    Attributes:
        kind: one of KINDS.
        dataset: the name of the data set that it comes from.
        text: the instruction, without what is said about how to answer.
        target: the right answer as a text; "" for a program.
        solution: the worked solution or reference program; "" for none.
        judge: decides about answers.
        item: what the judge needs.
        answer: the answer in a text, None if there is none.
    """

    kind: str
    dataset: str
    text: str
    target: str
    solution: str
    judge: Judge
    item: Item
    answer: Callable[[str, Item], str | None]

    @property
    def gold(self) -> str | None:
        """The gold answer as it is judged; None where no solution is known."""
        if not self.solution:
            return None
        return self.answer(self.solution, self.item)


def _question(lead: str) -> Callable[[Item], str]:
    return lambda item: item.prompt.removeprefix(lead).removesuffix("\nAnswer:")


def _mbpp(item: Item) -> str:
    return f"{item.data['text']}\nYour program should pass this test: {item.data['tests'][0]}"


_WORDS = _question("Question: ")
# Of a task of `fulgurite evaluate`: the kinds of its problems, the usual one first, and the instruction of an item.
TASK_PROBLEMS: dict[str, tuple[tuple[str, ...], Callable[[Item], str]]] = {
    "gsm8k": (("Math_CoT", "Math_PoT"), _WORDS),
    "gsm_plus": (("Math_CoT", "Math_PoT"), _WORDS),
    "svamp": (("Math_CoT", "Math_PoT"), _WORDS),
    "asdiv": (("Math_CoT", "Math_PoT"), _WORDS),
    "math": (("Math_CoT", "Math_PoT"), _question("Problem: ")),
    "mbpp": (("Coding",), _mbpp),
    "mbpp_sanitized": (("Coding",), _mbpp),
    "humaneval": (("Coding",), lambda item: f"Complete this function.\n{item.prompt.rstrip()}"),
}


def problem_of(task: Task, item: Item, kind: str | None, dataset: str | None) -> Problem:
    """The problem of a task's item.

    Args:
        task: a task of TASK_PROBLEMS.
        item: of the task.
        kind: one of the kinds that the task has; None for the usual one.
        dataset: its name in the rows; None for the task's.

    Raises:
        ValueError: another task, or another kind.
    """
    if task.name not in TASK_PROBLEMS or task.judge is None:
        raise ValueError(
            f"synthesize: there are no problems of the task {task.name!r}; the tasks are: {', '.join(TASK_PROBLEMS)}"
        )
    kinds, text = TASK_PROBLEMS[task.name]
    chosen = kinds[0] if kind is None else kind
    if chosen not in kinds:
        raise ValueError(f"synthesize: kind={kind!r} of the task {task.name}; allowed are {', '.join(kinds)}")
    target = "" if chosen == "Coding" else str(item.target)
    solution = item.solution
    if task.name == "humaneval":
        solution = item.prompt + solution  # the published one goes on from the signature
    return Problem(chosen, dataset or task.name, text(item).strip(), target, solution, task.judge, item, task.answer)


def own_problem(key: str, data: Mapping[str, Any], kind: str | None, dataset: str | None) -> Problem:
    """The problem of a row of the user's own.

    Args:
        key: of the row.
        data: its columns; see the table above.
        kind: one of KINDS; None takes Coding where there are tests, else Math_CoT for a number and Logic for a text.
        dataset: its name in the rows; None for "own".

    Raises:
        ValueError: neither answer nor tests, or a kind that does not go with them.
    """
    text, tests = str(data["instruction"]), data.get("tests")
    if isinstance(tests, str):
        tests = [tests]
    target = data.get("answer")
    if not tests and (target is None or not str(target).strip()):
        raise ValueError("there is neither 'answer' nor 'tests'")
    is_number = final_number(str(target)) is not None and canonical_number(str(target)).lstrip("-")[:1].isdigit()
    usual = "Coding" if tests else "Math_CoT" if is_number else "Logic"
    kind = kind or usual
    if (kind == "Coding") != bool(tests):
        raise ValueError(f"the kind is {kind}, which {'needs' if kind == 'Coding' else 'takes no'} 'tests'")
    solution = str(data.get("solution") or "")
    judge: Judge
    if kind == "Coding":
        judge = ProgramJudge(mbpp_job)
        item = Item(
            key, text, solution=solution, data={"tests": [str(t) for t in tests or ()], "imports": [], "setup": ""}
        )
        return Problem(kind, dataset or "own", text, "", solution, judge, item, lambda said, _: whole_program(said))
    item = Item(key, text, str(target).strip(), solution=solution)
    answer: Callable[[str, Item], str | None]
    if kind == "Logic":
        judge, answer = TextJudge(_same_text, _plain), _said
    elif is_number:
        judge, answer = TextJudge(same_number, canonical_number), lambda said, _: final_number(said)
    else:
        judge, answer = ExpressionJudge(), lambda said, _: expression_in(said)
    return Problem(kind, dataset or "own", text, str(target).strip(), solution, judge, item, answer)


def _said(text: str, item: Item) -> str | None:
    """What follows the last "Answer:", else the last line."""
    found = _ANSWER.findall(text)
    if found:
        return str(found[-1]).strip() or None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


def _same_text(answer: str, target: Any) -> bool:
    """Equal up to case and marks; a target of one letter is a choice, which may come with its text: "B. the dog"."""
    found, wanted = _plain(answer), _plain(str(target))
    if len(wanted) == 1 and wanted.isalpha():
        return bool(re.match(rf"\(?{re.escape(wanted)}(?![\w'])", answer.strip().lower()))
    return found == wanted


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def masked(solution: str, target: str) -> str:
    """A worked solution in which the answer is hidden, so that the hint does not give it away.

    Every number that equals the target is hidden, however it is written; of a target that is no number, every place where it stands
    as words of their own.

    Args:
        solution: the worked solution.
        target: the right answer.
    """
    wanted = canonical_number(target)
    hidden = re.sub(
        r"(?<![\d.])-?\$?(?:\d(?:[\d,]*\d)?(?:\.\d+)?|\.\d+)",
        lambda found: _MASK if canonical_number(found[0]) == wanted else found[0],
        solution,
    )
    if canonical_expression(target) == wanted and wanted.lstrip("-")[:1].isdigit():
        return hidden
    return re.sub(rf"(?<!\w){re.escape(target)}(?!\w)", lambda _: _MASK, hidden)
