"""translate: dialogues into other languages, each turn with the ones before it in sight, and looked at afterwards.

A turn that is no prose (code, a formula, a number) is carried over. What comes back has to keep code, LaTeX, links and numbers, to
ask where its source asks, and to be in the language that is wanted; what does not is asked for again with what was wrong, and then
left out, counted by reason. UltraLink's claim is that such data in one language helps in all, so that of each other language a
sample is enough (`volume`; theirs: 100,000 chats, 200 of mathematics, 2,500 programs) beside the whole source (`keep_source`).
The published code translated all turns of a dialogue apart, and looked at nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.multilingual.asking import Wanted, check_language, read_answers
from fulgurite.synthesis.multilingual.languages import check_detector, name_of
from fulgurite.synthesis.multilingual.parsing import Unread, translation_in
from fulgurite.synthesis.multilingual.reading import dialogue_columns
from fulgurite.synthesis.multilingual.survival import kept_in, lost_in
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__: list[str] = []

_SEEN = 2  # earlier turns that a prompt shows


@dataclass(frozen=True)
class TranslateOptions:
    """Who translates what.

    Args:
        by: the model that translates.
        languages: into which languages, two letters each.
        volume: rows of each language, at random; none takes all.
        keep_source: whether the rows that are translated go on too, in their own language.
        retries: how often a turn that did not survive is asked for again.
        check_language: whether lingua looks at the language of what comes back (extra synthesis).
    """

    by: str
    languages: list[str]
    volume: int | None = None
    keep_source: bool = True
    retries: int = 2
    check_language: bool = True

    def __post_init__(self) -> None:
        if not self.languages or len(set(self.languages)) < len(self.languages):
            raise ValueError("synthesize: translate needs languages, each once")
        for code in self.languages:
            name_of(code)
        if self.retries < 0 or (self.volume is not None and self.volume < 1):
            raise ValueError("synthesize: translate needs retries of 0 or more, and a volume of 1 or more")


@dataclass
class _Job:
    """One dialogue on its way into one language."""

    row: Row
    source: str  # key of the row that is translated
    texts: list[str]
    code: str
    done: list[str] = field(default_factory=list)
    made: list[Any] = field(default_factory=list)
    waiting: bool = False
    lost: tuple[str, str] | None = None

    @property
    def open(self) -> bool:
        return not self.waiting and self.lost is None and len(self.done) < len(self.texts)

    def carry_over(self) -> None:
        """Takes the turns that come next as they stand, as long as they are no prose."""
        while self.open and not kept_in(self.texts[len(self.done)]).is_prose:
            self.done.append(self.texts[len(self.done)])


def _run(options: TranslateOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    if options.check_language:
        check_detector(options.languages)
    jobs: list[_Job] = []
    for code in options.languages:
        jobs += _sampled(options, rows, code, desk)
    for job in jobs:
        job.carry_over()
    while growing := [job for job in jobs if job.open]:
        wanted = [_wanted(job, options) for job in growing]
        for job, found in zip(
            growing, read_answers(desk, wanted, options.by, options.retries, "translations"), strict=True
        ):
            job.made += found.made
            if found.waiting:
                job.waiting = True
            elif found.value is None:
                job.lost = (found.reason, f"turn {len(job.done) + 1}: {found.detail}")
            else:
                job.done.append(found.value)
                job.carry_over()
    return _results(options, rows, jobs, desk)


def _sampled(options: TranslateOptions, rows: Sequence[Row], code: str, desk: Desk) -> list[_Job]:
    """The rows that are translated into a language: those with the smallest numbers at random, in their order."""
    others = [row for row in rows if row.text("language") != code]
    if options.volume is not None and options.volume < len(others):
        keyed = sorted((random.Random(f"{desk.seed}|{desk.step}|{code}|{row.key}").random(), row.key) for row in others)
        chosen = {key for _, key in keyed[: options.volume]}
        desk.count.figures[f"rows outside the sample of {code}"] = len(others) - options.volume
        others = [row for row in others if row.key in chosen]
    return [_Job(replace(row, key=f"{row.key}.{code}"), row.key, row.data["dialogue"], code) for row in others]


def _wanted(job: _Job, options: TranslateOptions) -> Wanted[str]:
    number = len(job.done)
    source = job.texts[number]
    before = list(zip(job.texts[:number], job.done, strict=True))[-_SEEN:]
    fields = {
        "text": source,
        "history": "\n\n".join(f"{one}\n→\n{other}" for one, other in before),
        "code": job.code,
        "language": name_of(job.code),
    }

    def read(text: str) -> str:
        found = translation_in(text)
        lost = lost_in(source, found, job.code)
        if lost is not None:
            raise Unread(*lost)
        if options.check_language:
            check_language(found, job.code)
        return found

    return Wanted(job.row.key, f"turn {number + 1}", "link_translate", fields, read, "…")


def _results(options: TranslateOptions, rows: Sequence[Row], jobs: Sequence[_Job], desk: Desk) -> list[Row]:
    kept = list(rows) if options.keep_source else []
    if not options.keep_source:
        sent = {job.source for job in jobs}
        for row in rows:
            if row.key not in sent:
                desk.drop(row, "in no sample, or in the only language that is wanted")
    reached = Counter[str]()
    for job in jobs:
        if job.waiting:
            desk.wait(job.row)
        elif job.lost is not None:
            desk.drop(job.row, job.lost[0], job.lost[1])
        else:
            reached[job.code] += 1
            columns = {**dialogue_columns(job.done), "language": job.code}
            kept.append(job.row.having(columns, tuple(job.made)))
    desk.count.figures |= {
        f"share of rows that survived into {code}": round(reached[code] / wanted, 3)
        for code in options.languages
        if (wanted := sum(job.code == code for job in jobs))
    }
    return kept


register(
    Step("translate", "dialogues into other languages, with code, LaTeX and numbers looked at", TranslateOptions, _run)
)
