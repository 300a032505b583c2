"""What becomes of an action: whether it is right, and what its environment shows.

| kind | judged is | shown is |
|---|---|---|
| Coding | its program against the tests | the error |
| Math_PoT | the output of its last block, after the blocks of earlier turns; its text where it has no block | all outputs |
| Math_CoT, Logic | the answer in its text | nothing |

An action with a flaw is never judged: an empty one, a program with a syntax error (by which right and wrong could be told apart
without looking at the problem), no program where one is asked for, a prompt that did not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fulgurite.evaluation.judging.verdicts import How, Verdict
from fulgurite.evaluation.runner.plan import text_hash
from fulgurite.synthesis.desk import Answer, Desk
from fulgurite.synthesis.problems import Problem
from fulgurite.synthesis.trees.interpreter import Output, blocks, run_blocks, syntax_error

__all__ = ["Action", "Trial", "flaw", "judge_identity", "try_actions"]

_OUT = "Out: "


@dataclass(frozen=True)
class Trial:
    """An action in its place.

    Attributes:
        row: key of the row.
        problem: what is to be solved.
        earlier: the actions of earlier turns.
        answer: the action.
    """

    row: str
    problem: Problem
    earlier: tuple[str, ...]
    answer: Answer


@dataclass(frozen=True)
class Action:
    """An action that was judged.

    Attributes:
        text: of the action.
        correct: whether it is right.
        shown: what its environment shows.
        made: provenance.
    """

    text: str
    correct: bool
    shown: str
    made: Mapping[str, Any]


def flaw(problem: Problem, answer: Answer) -> str | None:
    """Why an action is not used, whether right or wrong; None if it may be.

    Args:
        problem: what is to be solved.
        answer: the action.
    """
    if answer.finish in ("window", "broken Unicode"):
        return {"window": "the prompt does not fit into the model's window"}.get(answer.finish, answer.finish)
    if not answer.text.strip():
        return "empty action"
    if answer.finish == "length":
        return "an action without an end"
    code = blocks(answer.text)
    if problem.kind == "Coding" and not code:
        return "no program"
    if any(syntax_error(block) is not None for block in code):
        return "syntax error"
    return None


def judge_identity(problems: Sequence[Problem], how: How) -> dict[str, Any]:
    """What verdicts depend on beside action and problem.

    Args:
        problems: of the rows.
        how: what the user chose.
    """
    judges = {problem.kind: problem.judge.identity(how) for problem in problems}
    interpreter = {"sandbox": how.sandbox, "seconds": how.seconds} if "Math_PoT" in judges else None
    return {"judges": judges, "interpreter": interpreter}


def try_actions(trials: Sequence[Trial], desk: Desk, identity: Mapping[str, Any]) -> list[Action | None]:
    """What becomes of actions without a flaw; None where what judges is broken.

    Args:
        trials: the actions.
        desk: of the step; it keeps the verdicts.
        identity: of :func:`judge_identity`.
    """
    if desk.dry is not None:  # every action is wrong, so that all prompts that there could be are shown
        return [Action(trial.answer.text, False, _OUT, trial.answer.made) for trial in trials]
    keys = [(trial.row, text_hash([trial.problem.text, list(trial.earlier), trial.answer.text])) for trial in trials]

    def judge(places: Sequence[int], done: Callable[[int, dict[str, Any]], None]) -> None:
        _judge([(place, trials[place]) for place in places], done, desk.how)

    found = desk.judged(keys, judge, lambda: identity)
    return [
        None
        if verdict is None
        else Action(trial.answer.text, bool(verdict["correct"]), str(verdict["shown"]), trial.answer.made)
        for trial, verdict in zip(trials, found, strict=True)
    ]


def _judge(trials: Sequence[tuple[int, Trial]], done: Callable[[int, dict[str, Any]], None], how: How) -> None:
    """Runs what has to be run, then lets each problem's judge decide about all of its answers at once."""
    outputs: dict[int, Output] = {}
    running = [
        (place, trial) for place, trial in trials if trial.problem.kind == "Math_PoT" and blocks(trial.answer.text)
    ]
    if running:
        jobs = [
            ([b for text in trial.earlier for b in blocks(text)], blocks(trial.answer.text)) for _, trial in running
        ]
        run_blocks(jobs, how, lambda number, output: outputs.__setitem__(running[number][0], output))
    shown_of = {place: _OUT + "\n".join(output.shown).strip() for place, output in outputs.items()}
    waiting: dict[int, tuple[Any, list[tuple[int, Any, str]]]] = {}
    for place, trial in trials:
        answer = trial.problem.answer(_said(trial, outputs.get(place)), trial.problem.item)
        if answer is None or not answer.strip():
            told = {"correct": 0.0, "status": "empty", "detail": "no answer", "shown": shown_of.get(place, "")}
            done(place, told)
            continue
        judge = trial.problem.judge
        waiting.setdefault(id(judge), (judge, []))[1].append((place, trial.problem.item, answer))
    coding = {place for place, trial in trials if trial.problem.kind == "Coding"}
    for judge, members in waiting.values():

        def verdict_of(number: int, verdict: Verdict, members: list[tuple[int, Any, str]] = members) -> None:
            place = members[number][0]
            shown = _OUT + verdict.detail if place in coding and verdict.detail else shown_of.get(place, "")
            done(
                place, {"correct": verdict.correct, "status": verdict.status, "detail": verdict.detail, "shown": shown}
            )

        judge.judge([(item, answer) for _, item, answer in members], verdict_of, how)


def _said(trial: Trial, output: Output | None) -> str:
    """The text in which the answer stands: a program of all blocks, the output of the last block, or the action itself."""
    if trial.problem.kind == "Coding":
        return "```python\n" + "\n".join(blocks(trial.answer.text)) + "\n```"
    if output is None:
        return trial.answer.text
    return output.shown[-1] if output.shown else ""
