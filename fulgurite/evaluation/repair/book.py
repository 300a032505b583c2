"""The records of a run, kept in one file that only grows: one line for each answer and one for each verdict.

A record is found by method, item, chain, turn and step. Steps are "tests" and "program" and "explanation", which are answers with
their prompts, and "verdict", which holds the turn's program and what running it said, on the tests of the feedback mode and on the
hidden ones. The first program and the model's own tests stand there once, under the method "shared": every method of repair goes on
from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fulgurite.evaluation.repair.feedback import passed
from fulgurite.evaluation.repair.plan import SAMPLING, SHARED
from fulgurite.evaluation.runner.record_file import RecordFile
from fulgurite.generation import ServerError

__all__ = ["KEY", "Book", "Chain", "Cost", "Place", "Repaired", "cost_of"]

KEY = ("method", "item", "index", "turn", "step")


@dataclass(frozen=True)
class Place:
    """Where a turn belongs: method, key of the item, number of the chain, turn."""

    method: str
    item: str
    index: int
    turn: int

    def record(self, step: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """A record of one of its steps."""
        return {**vars(self), "step": step, **content}


@dataclass(frozen=True)
class Cost:
    """What answers took.

    Attributes:
        calls: how many they are.
        generated: their tokens; None where a server does not say.
        prompted: tokens of their prompts; None where those of some answer of the run cannot be counted.
    """

    calls: int
    generated: int | None
    prompted: int | None

    @property
    def tokens(self) -> int | None:
        """Prompts and answers where both are known, else answers alone."""
        return self.generated if self.generated is None or self.prompted is None else self.generated + self.prompted


def cost_of(records: Iterable[Mapping[str, Any]], prompts: bool) -> Cost:
    """The cost of some answers.

    Args:
        records: of answers.
        prompts: whether the tokens of prompts count. It is the same for all answers of a run: a budget with the prompts of one
            method and without those of another one would not be equal.
    """
    found = list(records)

    def total(name: str) -> int | None:
        values = [record[name] for record in found]
        return None if None in values else sum(values)

    return Cost(len(found), total("tokens"), total("prompt_tokens") if prompts else None)


@dataclass(frozen=True)
class Chain:
    """The turns of one chain so far.

    Attributes:
        verdicts: of turn 0, 1, …
        answers: records of all that the model wrote for it, what it shares with others included.
    """

    verdicts: Sequence[Mapping[str, Any]]
    answers: Sequence[Mapping[str, Any]]

    @property
    def ended(self) -> bool:
        """Whether the feedback has nothing more to say."""
        return bool(self.verdicts) and self.verdicts[-1]["feedback"]["status"] in ("passed", "no tests")

    def solved(self, turn: int) -> bool:
        """Whether the program after so many repairs passes the hidden tests; a chain that ended keeps its last program."""
        return passed(self.verdicts[min(turn, len(self.verdicts) - 1)]["hidden"])

    def program(self, turn: int) -> str | None:
        """The latest program at a turn; None if no answer held one."""
        held = [verdict["program"] for verdict in self.verdicts[: turn + 1] if verdict["program"] is not None]
        return held[-1] if held else None


class Book:
    """All records of a run.

    Args:
        file: the open file; what stands there is taken up.
    """

    def __init__(self, file: RecordFile) -> None:
        self.file = file
        self._found = {tuple(record[name] for name in KEY): record for record in file.records}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All records."""
        return iter(self._found.values())

    @property
    def prompts_counted(self) -> bool:
        """Whether the tokens of all prompts are known."""
        return all(record.get("prompt_tokens", 0) is not None for record in self)

    def get(self, place: Place, step: str) -> dict[str, Any] | None:
        """A record, None if it isn't there yet."""
        return self._found.get((*vars(place).values(), step))

    def add(self, record: dict[str, Any]) -> None:
        """Adds a record; afterwards it is on the disk."""
        self.file.add(record)
        self._found[tuple(record[name] for name in KEY)] = record

    def chain(self, method: str, item: str, index: int, given: bool, turns: int | None = None) -> Chain:
        """A chain of a method.

        Args:
            method: of repair, or sampling.
            item: key of the item.
            index: number of the chain.
            given: whether the first program is the task's, which independent samples share too.
            turns: repairs at most that are looked at; None for all.
        """
        verdicts: list[Mapping[str, Any]] = []
        answers: list[Mapping[str, Any]] = []
        own_first = method == SAMPLING and not given
        tests = self.get(Place(SHARED, item, index, 0), "tests")
        answers += [] if tests is None else [tests]
        turn = 0
        while turns is None or turn <= turns:
            place = Place(SHARED if turn == 0 and not own_first else method, item, index, turn)
            answers += [record for step in ("explanation", "program") if (record := self.get(place, step)) is not None]
            verdict = self.get(place, "verdict")
            if verdict is None:
                break
            verdicts.append(verdict)
            turn += 1
        return Chain(verdicts, answers)


@dataclass
class Repaired:
    """What a call of `repair` leaves.

    Attributes:
        book: all records.
        troubles: why chains are not done: answers that could not be had, a sandbox that is broken.
        stopped: the server's error after which nothing more was asked; None if there was none.
        new: answers that this call got.
        known: records that stood there.
        repaired: bytes of a torn last line that were cut off.
        turns: repairs after which a budget ended the run; None where it ran to its end.
        spent: the sentence that says so.
    """

    book: Book
    troubles: dict[tuple[str, str, int], str] = field(default_factory=dict)
    stopped: ServerError | None = None
    new: int = 0
    known: int = 0
    repaired: int = 0
    turns: int | None = None
    spent: str = ""

    def trouble(self, place: Place, why: str) -> None:
        """Notes why a chain cannot go on in this call; the first reason stays.

        Args:
            place: where it stopped.
            why: the reason.
        """
        self.troubles.setdefault((place.method, place.item, place.index), f"turn {place.turn}: {why}")

    def troubled(self, method: str, item: str, index: int) -> bool:
        """Whether a chain cannot go on in this call; what is shared stops the chains of all methods.

        Args:
            method: of the chain.
            item: key of its item.
            index: its number.
        """
        return any((name, item, index) in self.troubles for name in (method, SHARED))
