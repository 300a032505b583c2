"""Asking until an answer can be read: what is not in the form, the language or of the kind that was asked for is asked again.

Number n of `index` is the n-th attempt. What was wrong with the last answer stands in the next prompt, so that prompts follow from
the answers that are kept, also in a later run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fulgurite.data.records.conversation import Turn
from fulgurite.data.records.findings import half_pair
from fulgurite.synthesis.desk import Answer, Ask, Desk
from fulgurite.synthesis.multilingual.languages import other_language
from fulgurite.synthesis.multilingual.parsing import Unread
from fulgurite.synthesis.multilingual.survival import kept_in

__all__ = ["Found", "Wanted", "check_language", "read_answers"]

Read = TypeVar("Read")
_UNSEEN = {
    "window": "the prompt does not fit into the model's window",
    "broken Unicode": "broken Unicode in the prompt",
}


@dataclass(frozen=True)
class Wanted(Generic[Read]):
    """One answer that is wanted.

    Attributes:
        row: key of the row.
        part: which of the step's answers for that row it is.
        template: name of the prompt's template.
        fields: its values; `again` is added.
        read: what the answer says; raises Unread.
        open: stands for the answer in a dry run.
    """

    row: str
    part: str
    template: str
    fields: Mapping[str, object]
    read: Callable[[str], Read]
    open: Read


@dataclass
class Found(Generic[Read]):
    """What became of it.

    Attributes:
        value: what the answer says; None where none could be read, or where one is missing.
        reason: why none could be read; "" where one could, or where one is missing.
        detail: more about that.
        waiting: whether an answer is missing, which the next run asks for.
        made: provenance of all answers, also of those that could not be read.
    """

    value: Read | None = None
    reason: str = ""
    detail: str = ""
    waiting: bool = False
    made: list[Mapping[str, Any]] = field(default_factory=list)


def read_answers(desk: Desk, wanted: Sequence[Wanted[Read]], model: str, retries: int, what: str) -> list[Found[Read]]:
    """Asks for all that is wanted, together; what cannot be read up to `retries` times more.

    Args:
        desk: of the step.
        wanted: prompts and how their answers are read.
        model: who is asked.
        retries: further attempts.
        what: what is asked for, for the progress bar.
    """
    found: list[Found[Read]] = [Found() for _ in wanted]
    todo = list(range(len(wanted)))
    for attempt in range(retries + 1):
        asks = [_ask(desk, wanted[place], found[place], model, attempt) for place in todo]
        left = []
        for place, answer in zip(todo, desk.ask(asks, what), strict=True):
            here = found[place]
            if answer is None:
                here.waiting, here.reason = True, ""
                continue
            here.made.append(answer.made)
            if desk.dry is not None:  # every attempt is shown
                here.value = wanted[place].open
                left.append(place)
                continue
            try:
                here.value, here.reason, here.detail = _read(wanted[place], answer), "", ""
            except Unread as error:
                here.reason, here.detail = str(error), error.detail
                if answer.finish not in _UNSEEN:
                    left.append(place)
        todo = left
    return found


def _ask(desk: Desk, one: Wanted[Read], before: Found[Read], model: str, attempt: int) -> Ask:
    told = f"{before.reason} ({before.detail})" if before.detail else before.reason
    again = told or ("…" if attempt else "")
    turns = (Turn("user", desk.prompt(one.template, {**one.fields, "again": again})),)
    return Ask(one.row, one.part, model, turns, attempt, (one.template,))


def _read(one: Wanted[Read], answer: Answer) -> Read:
    if answer.finish in _UNSEEN:
        raise Unread(_UNSEEN[answer.finish])
    if answer.finish == "length":
        raise Unread("cut off", f"behind {answer.text[-40:]!r}")
    if "\ufffd" in answer.text or half_pair(answer.text) is not None:
        raise Unread("broken Unicode")
    return one.read(answer.text)


def check_language(text: str, wanted: str) -> None:
    """Looks at the prose of a text.

    Args:
        text: of a model.
        wanted: two letters.

    Raises:
        Unread: it is in another language.
    """
    found = other_language(kept_in(text).prose, wanted)
    if found is not None:
        raise Unread("another language", f"{found} in place of {wanted}")
