"""Candidates: several answers to each prompt, with what is known of each answer beside its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fulgurite.data.records.conversation import Turn

__all__ = ["CUT", "Candidates", "Found"]

CUT = "length"  # how an answer is marked that did not end by itself
Found = list[float | None]  # a number for each answer of a prompt; None where an answer has none


@dataclass(frozen=True)
class Candidates:
    """The answers to one prompt.

    Attributes:
        key: names the prompt, in files and messages.
        prompt: what was asked: turns of a chat, or one turn "prompt" that is continued as it stands.
        texts: the N answers.
        finishes: why each ended: "stop", "length" (cut off), or "" where that is not known.
        lengths: tokens of each; None where they are not known.
        correct: what a checker says of each, 1 or 0; None where it could not say. Empty without a checker.
        forms: the canonical form of the answer in each text, by which votes are counted; None where none was found. Empty
            where nothing reads answers out of texts.
    """

    key: str
    prompt: tuple[Turn, ...]
    texts: tuple[str, ...]
    finishes: tuple[str, ...] = ()
    lengths: tuple[int | None, ...] = ()
    correct: Found = field(default_factory=list)
    forms: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        for name in ("finishes", "lengths", "correct", "forms"):
            given: Sequence[object] = getattr(self, name)
            if given and len(given) != len(self.texts):
                raise ValueError(
                    f"{self.key}: {len(given)} values of {name} for {len(self.texts)} answers; give one for each answer, or none"
                )

    def empty(self, place: int) -> bool:
        """Whether an answer has no text."""
        return not self.texts[place].strip()

    def cut(self, place: int) -> bool:
        """Whether an answer was cut off."""
        return bool(self.finishes) and self.finishes[place] == CUT
