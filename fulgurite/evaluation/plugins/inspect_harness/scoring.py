"""Our judges as a scorer of inspect_ai: programs in our sandbox, apart from the judge's process; expressions in a child process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from anyio.to_thread import run_sync
from inspect_ai.scorer import Score, accuracy, scorer, stderr
from inspect_ai.util import concurrency

from fulgurite.evaluation.judging.verdicts import How, Verdict
from fulgurite.evaluation.tasks import TASKS, Item, Task

__all__ = ["as_plain", "from_plain", "verdict"]


def as_plain(item: Item) -> dict[str, Any]:
    """An item as the plain data that a log keeps, from which it can be judged again.

    Args:
        item: of a task.
    """
    plain: dict[str, Any] = json.loads(json.dumps({**asdict(item), "data": dict(item.data)}))
    return plain


def from_plain(plain: Mapping[str, Any]) -> Item:
    """The item again.

    Args:
        plain: what `as_plain` gave.
    """
    return Item(**{**plain, "choices": tuple(plain["choices"])})


@scorer(metrics=[accuracy(), stderr()], name="verdict")
def verdict(task: str, sandbox: str = "auto", time_limit: float = 10.0) -> Any:
    """Judges an answer as `fulgurite evaluate` does.

    Args:
        task: its name.
        sandbox: how generated programs are held: auto, strict, limits.
        time_limit: seconds of a generated program's test.
    """
    ours, how = TASKS[task], How(sandbox, time_limit, 1)

    async def score(state: Any, target: Any) -> Score:
        item = from_plain(state.metadata["item"])
        answer = ours.answer(state.output.completion, item)
        if answer is None:
            explanation = "empty: no answer stands in the text"
            return Score(value=0.0, explanation=explanation, reason="no_response", metadata={"status": "empty"})
        async with concurrency("fulgurite judge", len(os.sched_getaffinity(0)), visible=False):
            found = await run_sync(_judged, ours, item, answer, how)
        explanation = f"{found.status}: {found.detail}" if found.detail else found.status
        about = {"status": found.status, "group": found.group}
        if found.correct is None:  # what judges is broken; nothing is said about the answer
            return Score.unscored(reason="scoring_failed", answer=answer, explanation=explanation, metadata=about)
        return Score(value=found.correct, answer=answer, explanation=explanation, metadata=about)

    return score


def _judged(task: Task, item: Item, answer: str, how: How) -> Verdict:
    found: list[Verdict] = []
    assert task.judge is not None
    task.judge.judge([(item, answer)], lambda _, verdict: found.append(verdict), how)
    return found[0]
