"""What UltraChat 2's recipe begins with on the playground: instructions of three domains with an answer or tests, and topics.

Instructions take turns: text (answered with a word), code (a function with asserts, or what one returns), maths (a number). What
the asserts expect comes from the playground's own interpreter. After each nine of them comes a topic of each domain, as long as
there are some: the playground's models can make nothing of topics, which shows how rows are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fulgurite.data.playground import DOMAINS, Task
from fulgurite.data.playground.content.interpreter import Program
from fulgurite.data.playground.draw import Draw
from fulgurite.data.playground.rows.conversations import drawn_task

__all__ = ["SEEDS", "seed_rows"]

SEEDS = "ultrachat2"
_COUNT = 600
_PROBES = ((0, 0), (1, 2), (3, 1), (5, 8), (10, 4), (12, 12))
_KINDS = {"maths": ("sum", "difference", "product", "steps", "compare", "sequence", "story")}
_TOPICS = {
    "text": ("Reading short stories", "Reviews of films", "Letters and messages"),
    "code": ("Small functions", "Loops and conditions", "Checking numbers"),
    "maths": ("Mental arithmetic", "Word problems", "Number sequences"),
}


def seed_rows(split: str) -> Iterator[dict[str, Any]]:
    """Rows of one split, with the columns that `synthesize` reads.

    Args:
        split: train, validation or test; no question of one split stands in another.
    """
    topics = list(zip(*_TOPICS.values(), strict=True))
    for index in range(_COUNT):
        domain = DOMAINS[index % len(DOMAINS)]
        task = drawn_task(Draw(f"{SEEDS}|{split}|0|{index}", split), domain, _KINDS.get(domain, ()))
        yield {"id": f"{domain}{index}", "domain": domain, "instruction": task.prompt, **_judged(task)}
        if index % 9 == 8 and index // 9 < len(topics):
            for name, topic in zip(_TOPICS, topics[index // 9], strict=True):
                yield {"id": f"{name}-topic{index // 9}", "domain": name, "topic": topic}


def _judged(task: Task) -> dict[str, Any]:
    """What answers are judged by."""
    if task.kind != "function":
        return {"answer": task.answer.rpartition("####")[2].strip()}
    program = Program(task.answer)
    name = next(iter(program.functions))
    arity = len(program.functions[name].args.args)
    calls = {f"{name}({', '.join(map(str, given[:arity]))})": program.call(name, *given[:arity]) for given in _PROBES}
    return {"tests": [f"assert {call} == {result}" for call, result in calls.items()], "solution": task.answer}
