"""subtopics: meta-topics become sub-topics, each with why it belongs there and who needs it (UltraFuser, appendix F).

Rows that are no topics, or sub-topics already, go through as they are. As many are asked for as the paper has on average: 1100 of
30 meta-topics of text, 407 of 21 of code, 80 of 21 of maths. Its meta-topics came from conversations and were checked by hand; here
they are the recipe's rows (column `topic`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fulgurite.data.records.conversation import Turn
from fulgurite.synthesis.desk import Ask, Desk
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register
from fulgurite.synthesis.steps.chats.domains import check_domains, listed, with_domain

__all__: list[str] = []

_WORDS = (2, 5)  # of a name


@dataclass(frozen=True)
class SubtopicsOptions:
    """Who names sub-topics, and how many.

    Args:
        by: the model that is asked.
        n: sub-topics of each topic, by domain.
        retries: how often an answer without a sub-topic is asked for again.
    """

    by: str
    n: dict[str, int] = field(default_factory=lambda: {"text": 37, "code": 19, "maths": 4})
    retries: int = 1

    def __post_init__(self) -> None:
        check_domains(dict(self.n), "n of subtopics")
        if min(self.n.values()) < 1 or self.retries < 0:
            raise ValueError(
                f"synthesize: subtopics has n={self.n}, retries={self.retries}; give 1 or more, and 0 or more"
            )


def _run(options: SubtopicsOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    known = with_domain([row for row in rows if _is_topic(row)], desk)
    topics = []
    for row, domain in known:
        if domain in options.n:
            topics.append((row, domain))
        else:
            desk.drop(row, "a topic of a domain without sub-topics", f"n says nothing about {domain}")
    found: dict[str, list[dict[str, str]]] = {}
    made: dict[str, list[Mapping[str, Any]]] = {}
    waiting: set[str] = set()
    for attempt in range(options.retries + 1):
        todo = [(row, domain) for row, domain in topics if not found.get(row.key) and row.key not in waiting]
        asks = [_ask(options, row, domain, attempt, desk) for row, domain in todo]
        for (row, domain), answer in zip(todo, desk.ask(asks, "sub-topics"), strict=True):
            if answer is None:
                waiting.add(row.key)
                desk.wait(row)
                continue
            made.setdefault(row.key, []).append(answer.made)
            dry = [{"topic": "…", "relevance": "", "use": ""}] * options.n[domain]
            found[row.key] = dry if desk.dry is not None else _read(row, answer.text, options.n[domain], desk)
    domains = {row.key: domain for row, domain in topics}
    kept: list[Row] = []
    for row in rows:
        if not _is_topic(row):
            kept.append(row)
        elif row.key in domains and row.key not in waiting:
            if not found[row.key]:
                desk.drop(row, "no sub-topic in the answer", row.text("topic"))
            kept += [
                _child(row, domains[row.key], place, one, made[row.key]) for place, one in enumerate(found[row.key], 1)
            ]
    desk.count.figures = {"topics": len(topics), "sub-topics": sum(map(len, found.values()))}
    return kept


def _is_topic(row: Row) -> bool:
    return "topic" in row.data and "meta_topic" not in row.data


def _ask(options: SubtopicsOptions, row: Row, domain: str, attempt: int, desk: Desk) -> Ask:
    fields = {"topic": row.text("topic"), "domain": domain, "number": options.n[domain]}
    turns = (Turn("user", desk.prompt("chat_subtopics", fields)),)
    return Ask(row.key, "subtopics", options.by, turns, attempt, ("chat_subtopics",))


def _read(row: Row, text: str, wanted: int, desk: Desk) -> list[dict[str, str]]:
    read: dict[str, dict[str, str]] = {}
    for entry in listed(text):
        parts = [part.strip(" *") for part in entry.splitlines()[0].split("|")]
        name, words = parts[0].rstrip(".:"), len(parts[0].split())
        if not _WORDS[0] <= words <= _WORDS[1]:
            desk.note(row.key, f"a sub-topic's name is not of {_WORDS[0]} to {_WORDS[1]} words: left out", name[:60])
        elif name.lower() in read:
            desk.note(row.key, "the same sub-topic again: left out", name)
        elif len(read) == wanted:
            desk.note(row.key, "more sub-topics than were asked for: left out", name)
        else:
            read[name.lower()] = {"topic": name, "relevance": "".join(parts[1:2]), "use": "".join(parts[2:3])}
            if len(parts) < 3:
                desk.note(row.key, "a sub-topic without its use", name)
    if read and len(read) < wanted:
        desk.note(row.key, "fewer sub-topics than were asked for", f"{len(read)} of {wanted}")
    return list(read.values())


def _child(row: Row, domain: str, place: int, found: Mapping[str, str], made: Sequence[Mapping[str, Any]]) -> Row:
    data = {**row.data, **found, "instruction": found["topic"], "meta_topic": row.text("topic"), "domain": domain}
    return Row(f"{row.key}+s{place}", data, None, (*row.made, *made))


register(Step("subtopics", "topics become sub-topics with their use", SubtopicsOptions, _run))
