"""Built-in rows in the published schemas of preferences: right against wrong answers of the playground's tasks.

Every preferred answer is right by ``check`` and every other one wrong. UltraInteract's trees go on after a wrong action with
an observation, as the published ones do; the rows of one tree follow each other.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from itertools import count as counted
from itertools import islice
from typing import Any

from fulgurite.data.playground.draw import SPLITS, Draw
from fulgurite.data.playground.generators import check
from fulgurite.data.playground.rows.conversations import drawn_task, made_conversations, wrong_answer
from fulgurite.data.playground.task import Task

__all__ = ["PREFERENCE_ROWS", "made_preferences", "preference_rows"]

Row = dict[str, Any]
Made = tuple[Row, Task]

_COUNTS = {"train": 2000, "validation": 200, "test": 200}
_TURNS = 5
_TASKS = {
    "Coding": ("code", ("function",), "Write Python code to solve the task.\n"),
    "Math_CoT": ("maths", ("steps", "story"), "Solve the following math problem step-by-step.\n"),
    "Logic": ("text", ("follows", "same"), ""),
}


def preference_rows(schema: str, split: str, seed: int = 0, count: int | None = None) -> list[Row]:
    """Rows of one split.

    Args:
        schema: one of ``PREFERENCE_ROWS``.
        split: train, validation or test.
        seed: equal seeds give equal rows.
        count: how many; None: 2000 for train, 200 for the others.
    """
    return [row for row, _ in made_preferences(schema, split, seed, count)]


def made_preferences(schema: str, split: str, seed: int = 0, count: int | None = None) -> Iterator[Made]:
    """Rows with the tasks that they were made of.

    Args:
        schema: one of ``PREFERENCE_ROWS``.
        split: train, validation or test.
        seed: equal seeds give equal rows.
        count: how many; None: 2000 for train, 200 for the others.
    """
    if split not in SPLITS:
        raise ValueError(f"preference_rows: split {split!r}; allowed are {', '.join(SPLITS)}; choose one of them.")
    return islice(_ROWS[schema](split, seed), _COUNTS[split] if count is None else count)


def _ultrainteract(split: str, seed: int) -> Iterator[Made]:
    for index in counted():
        draw = Draw(f"ultrainteract_pair|{split}|{seed}|{index}", split)
        name = draw.pick(tuple(_TASKS))
        domain, kinds, opening = _TASKS[name]
        task = drawn_task(draw, domain, kinds)
        parent = hashlib.sha256(task.prompt.encode()).hexdigest()
        trajectory = [{"from": "user", "value": opening + task.prompt}]
        seen: set[str] = set()
        for turn in range(1, draw.integer(1, _TURNS) + 1):
            wrong = wrong_answer(draw, task)
            if wrong in seen:  # the same wrong action again would teach nothing, and few tasks have five of them
                break
            seen.add(wrong)
            row: Row = {
                "task": name,
                "dataset": f"playground_{task.domain}",
                "trajectory": list(trajectory),
                "chosen": _action(task, turn, task.answer),
                "rejected": _action(task, turn, wrong),
                "id": f"{parent}_{turn}_{turn}",
                "parent_id": parent,
            }
            yield row, task
            trajectory += [
                {"from": "assistant", "value": row["rejected"]},
                {"from": "user", "value": f"{_observation(task)}\nYour answer is wrong."},
            ]


def _action(task: Task, turn: int, answer: str) -> str:
    text = f"```python\n{answer}```" if task.domain == "code" else answer.replace("####", "Answer:")
    return text if turn == 1 else f"Once more: {text}"


def _observation(task: Task) -> str:
    what = {
        "code": "Out: the results differ.",
        "maths": "Out: another number.",
        "text": "Observation: it says otherwise.",
    }
    return what[task.domain]


def _binarized(split: str, seed: int) -> Iterator[Made]:
    for row, task, right, wrong, draw in _rated("ultrafeedback_binarized", split, seed):
        chosen = max(right, key=lambda completion: float(completion["overall_score"]))
        rejected = draw.pick(wrong)
        sides = {
            side: [{"content": task.prompt, "role": "user"}, {"content": completion["response"], "role": "assistant"}]
            for side, completion in (("chosen", chosen), ("rejected", rejected))
        }
        scores = {"score_chosen": chosen["overall_score"], "score_rejected": rejected["overall_score"]}
        number = hashlib.sha256(row["instruction"].encode()).hexdigest()
        yield {"prompt": task.prompt, "prompt_id": number, **sides, "messages": sides["chosen"], **scores}, task


def _ultrasafety(split: str, seed: int) -> Iterator[Made]:
    for row, task, right, wrong, _ in _rated("ultrasafety", split, seed):
        completions = [
            {
                "model": completion["model"],
                "response": completion["response"],
                "annotations": {
                    "harmlessness": [{"Rating": str(int(completion in right)), "Rationale": "It is as it is."}]
                },
            }
            for completion in (right[0], wrong[0])
        ]
        yield {"source": "playground", "instruction": row["instruction"], "completions": completions}, task


def _unpaired(split: str, seed: int) -> Iterator[Made]:
    for _, task, right, wrong, draw in _rated("unpaired", split, seed):
        label = draw.chance(0.5)
        answer = draw.pick(right if label else wrong)["response"]
        prompt = [{"role": "user", "content": task.prompt}]
        yield {"prompt": prompt, "completion": [{"role": "assistant", "content": answer}], "label": label}, task


def _rated(schema: str, split: str, seed: int) -> Iterator[tuple[Row, Task, list[Row], list[Row], Draw]]:
    """Rows of UltraFeedback with their right and their wrong answers."""
    for index, (row, (task, *_)) in enumerate(made_conversations("ultrafeedback", split, seed, sys.maxsize)):
        right = [c for c in row["completions"] if check(task, c["response"])]
        wrong = [c for c in row["completions"] if c not in right]
        if right and wrong:
            yield row, task, right, wrong, Draw(f"{schema}|{split}|{seed}|{index}", split)


_ROWS: dict[str, Callable[[str, int], Iterator[Made]]] = {
    "ultrainteract_pair": _ultrainteract,
    "ultrafeedback_binarized": _binarized,
    "ultrasafety": _ultrasafety,
    "unpaired": _unpaired,
}
PREFERENCE_ROWS = tuple(_ROWS)
