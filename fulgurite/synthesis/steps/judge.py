"""judge: completions of rows with a right answer or tests are judged, programs in the sandbox; each gets correct: true or false."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fulgurite.synthesis.desk import Answer, Desk
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register
from fulgurite.synthesis.trees.environment import Trial, flaw, judge_identity, try_actions

__all__: list[str] = []


@dataclass(frozen=True)
class JudgeOptions:
    """What is judged.

    Args:
        column: of the completions.
        into: the row's column for the number of right completions.
    """

    column: str = "completions"
    into: str = "right"


def _run(options: JudgeOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    judged = []
    for row in rows:
        if row.problem is None:
            desk.drop(row, "nothing to judge by", "the row has neither answer nor tests")
        else:
            judged.append(row)
    if desk.dry is not None:
        return [row.having({options.into: 0}) for row in judged]
    identity = judge_identity([row.problem for row in judged if row.problem is not None], desk.how)
    trials, owners = [], []
    for number, row in enumerate(judged):
        for place, completion in enumerate(row.data[options.column]):
            answer = Answer(str(completion["response"]), "stop", {})
            assert row.problem is not None
            why = flaw(row.problem, answer)
            if why is not None:
                desk.note(row.key, f"wrong without a trial: {why}", f"completion {place + 1}")
                continue
            trials.append(Trial(row.key, row.problem, (), answer))
            owners.append((number, place))
    found = dict(zip(owners, try_actions(trials, desk, identity), strict=True))
    kept = []
    for number, row in enumerate(judged):
        actions = [found.get((number, place)) for place in range(len(row.data[options.column]))]
        if any((number, place) in found and action is None for place, action in enumerate(actions)):
            desk.wait(row, "what judges is broken")
            continue
        verdicts = [action is not None and action.correct for action in actions]
        completions = [{**c, "correct": right} for c, right in zip(row.data[options.column], verdicts, strict=True)]
        kept.append(row.having({options.column: completions, options.into: sum(verdicts)}))
    return kept


register(Step("judge", "completions against the right answer or the tests", JudgeOptions, _run))
