"""What a task of the playground is, and how it is written as a conversation."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Task", "conversation"]


@dataclass(frozen=True)
class Task:
    """A question with a checkable answer.

    Args:
        domain: text, code or maths.
        kind: what is asked for; it decides how the answer is checked.
        prompt: the question.
        answer: one right answer.
    """

    domain: str
    kind: str
    prompt: str
    answer: str


def conversation(task: Task) -> str:
    """The task and its answer in the form of the playground's chat template, without the first token."""
    return f"<|user|>\n{task.prompt}<|end|>\n<|assistant|>\n{task.answer}<|end|>\n"
