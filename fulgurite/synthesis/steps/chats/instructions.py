"""instructions: sub-topics become instructions, and more instructions beside strongly and weakly related ones (UltraFuser).

In the first round a model is asked for instructions about each sub-topic alone. In each further round it is shown some that stand
there already: of the same sub-topic (strongly related) and of other sub-topics of the same topic (weakly related). Both are drawn
from one topic's instructions alone, so that prompts stay the same when topics are added. A topic whose answers are not all there
waits as a whole. Rows that are no topics go through as they are.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fulgurite.data.records.conversation import Turn
from fulgurite.synthesis.desk import Answer, Ask, Desk
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register
from fulgurite.synthesis.steps.chats.domains import listed, with_domain

__all__: list[str] = []


@dataclass(frozen=True)
class InstructionsOptions:
    """Who writes instructions, and how many.

    Args:
        by: the model that is asked.
        n: instructions of each answer.
        rounds: answers for each sub-topic; the first sees no other instructions.
        strong: instructions of the same sub-topic that later rounds are shown, at most.
        weak: instructions of other sub-topics of the topic that later rounds are shown, at most.
    """

    by: str
    n: int = 5
    rounds: int = 2
    strong: int = 3
    weak: int = 3

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("rounds", 1), ("strong", 0), ("weak", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"synthesize: {name}={getattr(self, name)} of instructions; give {least} or more")


@dataclass
class _Sub:
    """A sub-topic with the instructions that it has so far, and the answers that they come from."""

    row: Row
    domain: str
    texts: list[str] = field(default_factory=list)
    made: list[Mapping[str, Any]] = field(default_factory=list)


def _run(options: InstructionsOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    subs = [_Sub(row, domain) for row, domain in with_domain([row for row in rows if "topic" in row.data], desk)]
    groups: dict[str, list[_Sub]] = {}
    for sub in subs:
        groups.setdefault(_group(sub.row), []).append(sub)
    waiting: set[str] = set()
    for number in range(options.rounds):
        todo = [(sub, group) for key, group in groups.items() if key not in waiting for sub in group]
        asks = [_ask(options, sub, group, number, desk) for sub, group in todo]
        answers = desk.ask(asks, "instructions")
        waiting |= {_group(sub.row) for (sub, _), answer in zip(todo, answers, strict=True) if answer is None}
        for (sub, group), answer in zip(todo, answers, strict=True):
            if answer is not None and _group(sub.row) not in waiting:
                _take(options, sub, group, answer, desk)
    kept: list[Row] = []
    mine = {sub.row.key: sub for sub in subs}
    for row in rows:
        if "topic" not in row.data:
            kept.append(row)
        elif row.key in mine and _group(row) in waiting:
            desk.wait(row)
        elif row.key in mine:
            sub = mine[row.key]
            if not sub.texts:
                desk.drop(row, "no instruction in the answers", row.text("topic"))
            kept += [_child(sub, place) for place in range(len(sub.texts))]
    desk.count.figures = {"sub-topics": len(subs), "instructions of them": sum(len(sub.texts) for sub in subs)}
    return kept


def _group(row: Row) -> str:
    """What the sub-topics of one topic share: the key of the topic's row."""
    return row.key.rpartition("+s")[0] if "meta_topic" in row.data else row.key


def _ask(options: InstructionsOptions, sub: _Sub, group: Sequence[_Sub], number: int, desk: Desk) -> Ask:
    row = sub.row
    about = [str(row.data[name]) for name in ("relevance", "use") if row.data.get(name)]
    fields: dict[str, object] = {
        "number": options.n,
        "domain": sub.domain,
        "subtopic": row.text("topic"),
        "topic": str(row.data.get("meta_topic", "")),
        "about": " ".join(f"{part.rstrip('.')}." for part in about),
    }
    if number:
        draw = random.Random(f"{desk.seed}|{desk.step}|{row.key}|{number}")
        others = [text for other in group if other is not sub for text in other.texts]
        fields |= {"strong": _some(sub.texts, options.strong, draw), "weak": _some(others, options.weak, draw)}
    turns = (Turn("user", desk.prompt("chat_instructions", fields)),)
    return Ask(row.key, f"round {number + 1}", options.by, turns, 0, ("chat_instructions",))


def _some(texts: Sequence[str], most: int, draw: random.Random) -> list[str]:
    keyed = sorted(
        (draw.random(), place) for place in range(len(texts))
    )  # random() is the same on every version of Python
    return [" ".join(texts[place].split()) for _, place in keyed[:most]]


def _take(options: InstructionsOptions, sub: _Sub, group: Sequence[_Sub], answer: Answer, desk: Desk) -> None:
    """Takes an answer's instructions that no sub-topic of the topic has yet."""
    if desk.dry is not None:
        sub.texts += ["…"] * options.n
        sub.made += [answer.made] * options.n
        return
    said = {" ".join(text.lower().split()) for other in group for text in other.texts}
    entries = listed(answer.text)
    if answer.finish == "length" and entries:
        desk.note(sub.row.key, "an instruction without an end: left out", entries.pop()[:60])
    if not entries:
        desk.note(sub.row.key, "no instructions in an answer", answer.text[:60])
    for number, text in enumerate(entries):
        plain = " ".join(text.lower().split())
        if number >= options.n:
            desk.note(sub.row.key, "more instructions than were asked for: left out", text[:60])
        elif plain in said:
            desk.note(sub.row.key, "the same instruction again: left out", text[:60])
        else:
            said.add(plain)
            sub.texts.append(text)
            sub.made.append(answer.made)


def _child(sub: _Sub, place: int) -> Row:
    row = sub.row
    data = {name: value for name, value in row.data.items() if name not in ("topic", "relevance", "use")}
    data |= {"instruction": sub.texts[place], "sub_topic": row.text("topic"), "domain": sub.domain}
    return Row(f"{row.key}+i{place + 1}", data, None, (*row.made, sub.made[place]))


register(Step("instructions", "sub-topics become instructions, beside related ones", InstructionsOptions, _run))
