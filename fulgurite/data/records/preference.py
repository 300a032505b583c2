"""Preferences: a pair of answers, one answer with a label, or several answers with scores; what readers return.

A prompt is the turns of a chat, the last of them the user's, or one turn `prompt`, over which no chat template is laid.
Records know where they stand in their source; what is wrong with one is a `Finding`, counted by its reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from fulgurite.data.records.conversation import Conversation, Turn, checked
from fulgurite.data.records.findings import Finding, place

__all__ = ["Labelled", "Preference", "PreferenceRecord", "Ranked", "checked_preference"]

EQUAL = "chosen equal to rejected"
_FEW = "fewer than two answers"
_CONTRARY = "rejected scored above chosen"


class _Placed:
    """What the records share: a place, and what decides whether they validate."""

    prompt: tuple[Turn, ...]
    source: str
    row: int
    group: str | None

    @property
    def where(self) -> str:
        """The place of the row, for messages."""
        return place(self.source, self.row)

    @property
    def key(self) -> str:
        """What decides whether the record validates or trains: its group, or its first question."""
        if self.group is not None:
            return self.group
        return next((turn.content for turn in self.prompt if turn.role != "system"), "")


@dataclass(frozen=True)
class Preference(_Placed):
    """Two answers to one prompt, of which one is preferred.

    Attributes:
        prompt: The turns before the answer.
        chosen: The preferred answer.
        rejected: The other one.
        source: File (or name of the data set) that the row was read from.
        row: Number of its line (or row) in `source`, counted from 1.
        margin: By how much it is preferred, in points of the annotation; None where nobody said.
        direct: Right against wrong, not just better against worse: rewards get Eurus's direct term (UltraInteract's pairs).
        scale: The widest margin that the annotation allows; None where nobody knows.
        weight: Multiplies its loss.
        group: Rows of one group share an instruction; they are one tree, and never split between training and validation.
        tag: What metrics by group go by (task, source); None for none.
    """

    prompt: tuple[Turn, ...]
    chosen: str
    rejected: str
    source: str
    row: int
    margin: float | None = None
    weight: float = 1.0
    group: str | None = None
    tag: str | None = None
    direct: bool = False
    scale: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Labelled(_Placed):
    """One answer that is desirable or not, as KTO (Ethayarajh et al., arXiv 2402.01306) takes it.

    Attributes:
        prompt: The turns before the answer.
        completion: The answer.
        desirable: Whether it is wanted.
        source: File (or name of the data set) that the row was read from.
        row: Number of its line (or row) in `source`, counted from 1.
        weight: Multiplies its loss.
        group: As of `Preference`.
        tag: As of `Preference`.
    """

    prompt: tuple[Turn, ...]
    completion: str
    desirable: bool
    source: str
    row: int
    weight: float = 1.0
    group: str | None = None
    tag: str | None = None


@dataclass(frozen=True)
class Ranked(_Placed):
    """Several answers to one prompt with a score each.

    Attributes:
        prompt: The turns before the answer.
        completions: The answers.
        scores: Their scores, the higher the better.
        scale: The widest difference that the annotation allows; None where nobody knows.
        source: File (or name of the data set) that the row was read from.
        row: Number of its line (or row) in `source`, counted from 1.
        weight: Multiplies its loss.
        group: As of `Preference`.
        tag: As of `Preference`.
    """

    prompt: tuple[Turn, ...]
    completions: tuple[str, ...]
    scores: tuple[float, ...]
    source: str
    row: int
    weight: float = 1.0
    group: str | None = None
    tag: str | None = None
    scale: float | None = field(default=None, compare=False)


PreferenceRecord = Preference | Labelled | Ranked


def checked_preference(record: PreferenceRecord) -> Iterator[PreferenceRecord | Finding]:
    """The record if nothing is wrong with it, else what is; answers of a `Ranked` that are no text are left out of it.

    A pair whose margin is negative is kept, and told.

    Args:
        record: as read.
    """
    where = record.where
    found = _wrong_prompt(record) or _wrong_numbers(record)
    if found is not None:
        yield Finding(where, *found)
        return
    if isinstance(record, Ranked):
        kept = []
        for number, (answer, score) in enumerate(zip(record.completions, record.scores, strict=True), 1):
            wrong = _wrong_answer(record, answer)
            if wrong is None and math.isfinite(score):
                kept.append((answer, score))
            else:
                reason, detail = ("no score", "it is not compared") if wrong is None else (wrong.reason, wrong.detail)
                yield Finding(where, f"an answer left out: {reason}", f"answer {number}: {detail}", lost=False)
        if len(kept) < 2:
            yield Finding(where, _FEW, f"{len(kept)} of {len(record.completions)} can be compared; two are needed")
            return
        if len(kept) < len(record.completions):
            record = replace(record, completions=tuple(a for a, _ in kept), scores=tuple(s for _, s in kept))
        yield record
        return
    answers = (record.chosen, record.rejected) if isinstance(record, Preference) else (record.completion,)
    for answer in answers:
        wrong = _wrong_answer(record, answer)
        if wrong is not None:
            yield wrong
            return
    if isinstance(record, Preference) and record.chosen.strip() == record.rejected.strip():
        yield Finding(where, EQUAL, f"both are {record.chosen[:40]!r}")
        return
    if isinstance(record, Preference) and record.margin is not None and record.margin < 0:
        yield Finding(where, _CONTRARY, f"the margin is {record.margin:g}", lost=False)
    yield record


def _wrong_prompt(record: PreferenceRecord) -> tuple[str, str] | None:
    roles = [turn.role for turn in record.prompt]
    if not roles:
        return "no prompt", "nothing stands before the answer"
    if roles != ["prompt"] and roles[-1] != "user":
        shown = ", ".join(roles[-4:])
        return (
            "prompt ends with the wrong role",
            f"its last roles are {shown}; the answer must follow a turn of the user",
        )
    return None


def _wrong_numbers(record: PreferenceRecord) -> tuple[str, str] | None:
    if not (math.isfinite(record.weight) and record.weight >= 0):
        return "not a weight", f"the weight is {record.weight}; a number of at least 0 is needed"
    if isinstance(record, Preference) and record.margin is not None and not math.isfinite(record.margin):
        return "not a margin", f"the margin is {record.margin}; a finite number is needed"
    if isinstance(record, Labelled) and not isinstance(record.desirable, bool):
        return "not a label", f"the label is {record.desirable!r}; true or false is needed"
    return None


def _wrong_answer(record: PreferenceRecord, answer: str) -> Finding | None:
    """What is wrong with the conversation that ends with this answer."""
    role = "completion" if record.prompt[0].role == "prompt" else "assistant"
    turns = (*record.prompt, Turn(role, answer))
    for item in checked(Conversation(turns, record.source, record.row)):
        if isinstance(item, Finding):
            return item
    return None
