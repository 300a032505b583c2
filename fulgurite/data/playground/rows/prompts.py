"""Built-in rows in GSM8K's columns: arithmetic with a number at the end, of a train, a validation and a test split."""

from __future__ import annotations

from fulgurite.data.playground.draw import SPLITS, Draw
from fulgurite.data.playground.rows.conversations import drawn_task

__all__ = ["PROMPT_ROWS", "prompt_rows"]

_COUNTS = {"train": 2000, "validation": 100, "test": 200}
_KINDS = ("sum", "difference", "product", "steps", "compare", "sequence", "story")
PROMPT_ROWS = ("gsm8k",)


def prompt_rows(schema: str, split: str, seed: int = 0, count: int | None = None) -> list[dict[str, str]]:
    """Rows of one split; no question of one split is asked in another.

    Args:
        schema: one of ``PROMPT_ROWS``.
        split: train, validation or test.
        seed: equal seeds give equal rows.
        count: how many; None: 2000 for train, 100 for validation, 200 for test.
    """
    if split not in SPLITS:
        raise ValueError(f"prompt_rows: split {split!r}; allowed are {', '.join(SPLITS)}; choose one of them.")
    rows = []
    for index in range(_COUNTS[split] if count is None else count):
        task = drawn_task(Draw(f"{schema}|{split}|{seed}|{index}", split), "maths", _KINDS)
        answer = task.answer if "####" in task.answer else f"#### {task.answer}"
        rows.append({"question": task.prompt, "answer": answer})
    return rows
