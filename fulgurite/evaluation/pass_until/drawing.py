"""Draws answers of each item until r of them pass, or until a cap: the sampling of PassUntil (arXiv 2310.03262, Sec 4.1).

Draws have numbers before they are made (the number is part of a draw's seed), and what counts is the number of the r-th pass: never
the order in which answers are finished, because short answers finish first and may pass more often. An item's draws come in
batches, 64 first and then as many as it has, 4096 at most; an item with r passes leaves. Items with the fewest draws go first.

Each batch is one line of OUT/TASK/draws.jsonl: numbers of the passes, not the texts, of which only the passing ones are kept. A run
that is stopped goes on with the next batch of each item; r and the cap can be raised later. The same answer to the same item is
judged once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fulgurite.evaluation.judging.verdicts import How, Verdict
from fulgurite.evaluation.runner.plan import Plan
from fulgurite.evaluation.runner.record_file import IdentityError, RecordFile
from fulgurite.evaluation.tasks.task import Item
from fulgurite.generation.protocol import Backend, Request, Sample

__all__ = ["Drawn", "ItemDraws", "Until", "draw_until", "expected_rest"]

_FIRST, _LARGEST = 64, 4096  # draws of an item's batch
_ROUND = 8192  # draws that the backend is asked for at once
_KEY = ("item", "start")


@dataclass(frozen=True)
class Until:
    """When an item is done.

    Attributes:
        passes: r, from 2: for r = 1 no useful unbiased estimate exists.
        cap: draws at most.

    Raises:
        ValueError: r below 2, or a cap below r.
    """

    passes: int
    cap: int = 100_000

    def __post_init__(self) -> None:
        if self.passes < 2:
            raise ValueError(f"until_passes={self.passes}; give 2 or more: one pass gives no unbiased estimate")
        if self.cap < self.passes:
            raise ValueError(f"cap={self.cap} with until_passes={self.passes}; give a cap of at least that many draws")


@dataclass
class ItemDraws:
    """The draws of one item so far.

    Attributes:
        item: its key.
        drawn: draws 0 to drawn − 1 are made and judged.
        passed: numbers of those that passed, rising.
        tokens: of all answers; None where a server does not say.
        truncated: answers that were cut off; they count as not passed.
        empty: texts without an answer.
        seconds: from the first to the last answer of each batch, added up.
    """

    item: str
    drawn: int = 0
    passed: list[int] = field(default_factory=list)
    tokens: int | None = 0
    truncated: int = 0
    empty: int = 0
    seconds: float = 0.0

    def counts(self, until: Until) -> tuple[int, int, bool]:
        """n draws, c passes among them, and whether the item is done with r passes (n is then the r-th pass's number)."""
        if len(self.passed) >= until.passes and self.passed[until.passes - 1] < until.cap:
            return self.passed[until.passes - 1] + 1, until.passes, True
        n = min(self.drawn, until.cap)
        return n, sum(number < n for number in self.passed), False

    def open(self, until: Until) -> bool:
        """Whether it needs more draws."""
        return not self.counts(until)[2] and self.drawn < until.cap

    def take(self, record: Mapping[str, Any]) -> None:
        """Adds a batch."""
        self.drawn += record["count"]
        self.passed += record["passed"]
        tokens = record["tokens"]
        self.tokens = None if self.tokens is None or tokens is None else self.tokens + tokens
        self.truncated += record["truncated"]
        self.empty += record["empty"]
        self.seconds += record["seconds"]


@dataclass(frozen=True)
class Drawn:
    """What a call of `draw_until` leaves.

    Attributes:
        items: in the task's order.
        until: when an item was done.
        new: draws that this call made.
        seconds: that it took.
        troubles: why items are still open: answers that could not be had, a sandbox that is broken.
        repaired: bytes of a torn last line that were cut off.
        identity: what the draws depend on.
        judge: what the verdicts depend on.
    """

    items: list[ItemDraws]
    until: Until
    new: int
    seconds: float
    troubles: list[str]
    repaired: int
    identity: dict[str, Any]
    judge: dict[str, Any]

    def states(self) -> dict[str, int]:
        """Items by state: resolved (r passes), censored (at the cap with fewer), open."""
        found = {"resolved": 0, "censored": 0, "open": 0}
        for draws in self.items:
            done = draws.counts(self.until)[2]
            found["resolved" if done else "open" if draws.open(self.until) else "censored"] += 1
        return found


def draw_until(
    plan: Plan, backend: Backend, until: Until, how: How, overwrite: bool = False, silent: bool = False
) -> Drawn:
    """Draws and judges until every item is done.

    Args:
        plan: the task, of answers; its settings have a temperature above 0, and its n has no meaning here.
        backend: what writes the answers.
        until: when an item is done.
        how: what the user chose about judging.
        overwrite: begin anew.
        silent: show no progress.

    Raises:
        ValueError: a task of choices, or a temperature of 0.
        IdentityError: the file holds draws of another model, other settings, prompts or another judge.
    """
    judge = plan.task.judge
    if judge is None:
        raise ValueError(
            f"{plan.task.name}: among given choices guessing passes too, so that its pass rate never falls to 0; PassUntil takes "
            "tasks that are answered freely"
        )
    if plan.settings.temperature <= 0:
        raise ValueError(f"{plan.task.name}: at temperature 0 every draw is the same; give a temperature of 1")
    verdicts = judge.identity(how)
    identity = {**plan.identity(backend.identity()), "judge": verdicts}
    begun = time.monotonic()
    draws = {item.key: ItemDraws(item.key) for item in plan.items}
    with RecordFile(_file(plan), "draws", identity, _KEY, overwrite) as file:
        asked = {item.key: plan.request(item) for item in plan.items}
        for record in sorted(file.records, key=lambda record: record["start"]):
            if record["item"] in draws:  # others lie beyond this run's limit
                _check(plan, record, asked[record["item"]], draws[record["item"]])
                draws[record["item"]].take(record)
        plan.write_requests()
        before = sum(each.drawn for each in draws.values())
        troubles: dict[str, str] = {}
        memory: dict[tuple[str, str], bool] = {}
        with _bar(plan, before, silent) as bar:
            while wanted := _next(plan, draws, until, troubles):
                _round(plan, backend, how, wanted, memory, draws, file, troubles, lambda: _show(bar, draws, until))
        new = sum(each.drawn for each in draws.values()) - before
        found = [draws[item.key] for item in plan.items]
        told = [f"{item}: {why}" for item, why in troubles.items()]
        return Drawn(found, until, new, time.monotonic() - begun, told, file.repaired, identity, verdicts)


def expected_rest(draws: Sequence[ItemDraws], until: Until) -> float:
    """Draws that the open items still need, by the mean of each one's pass rate under the prior Beta(½, ½), the cap counted."""
    rest = 0.0
    for each in draws:
        if each.open(until):
            rate = (len(each.passed) + 0.5) / (each.drawn + 1)
            rest += min(until.cap - each.drawn, (until.passes - len(each.passed)) / rate)
    return rest


def _file(plan: Plan) -> Path:
    return plan.folder / "draws.jsonl"


def _check(plan: Plan, record: Mapping[str, Any], asked: str, known: ItemDraws) -> None:
    """Refuses batches of another prompt, and batches that are missing."""
    if record["request"] != asked:
        raise IdentityError(
            f"{_file(plan)}: the draws of {plan.task.name} {record['item']} answer another prompt than the one that would be asked "
            "now (other rows, examples or template); they are not mixed: give another --out, or --overwrite true"
        )
    if record["start"] != known.drawn:
        raise ValueError(
            f"{_file(plan)}: of {plan.task.name} {record['item']} draws {known.drawn} to {record['start'] - 1} are missing; "
            "restore the file, or --overwrite true"
        )


def _next(
    plan: Plan, draws: Mapping[str, ItemDraws], until: Until, troubles: Mapping[str, str]
) -> list[tuple[Item, int, int]]:
    """The next batches: item, number of the first draw, draws; those with the fewest draws first."""
    wanted: list[tuple[Item, int, int]] = []
    total = 0
    open_items = [item for item in plan.items if draws[item.key].open(until) and item.key not in troubles]
    for item in sorted(open_items, key=lambda item: draws[item.key].drawn):
        start = draws[item.key].drawn
        count = min(max(_FIRST, min(start, _LARGEST)), until.cap - start)
        if wanted and total + count > _ROUND:
            break
        wanted.append((item, start, count))
        total += count
    return wanted


def _round(
    plan: Plan,
    backend: Backend,
    how: How,
    wanted: Sequence[tuple[Item, int, int]],
    memory: dict[tuple[str, str], bool],
    draws: Mapping[str, ItemDraws],
    file: RecordFile,
    troubles: dict[str, str],
    shown: Callable[[], None],
) -> None:
    """One batch of each wanted item; a batch is judged and written as soon as it is whole."""
    requests = [
        Request(plan.prompt(item), f"{plan.task.name}/{item.key}", tuple(range(start, start + count)))
        for item, start, count in wanted
    ]
    came: dict[int, list[Sample]] = {place: [] for place in range(len(wanted))}
    since: dict[int, float] = {}
    for sample in backend.sample(requests, 1, plan.settings):
        place = sample.prompt
        item, start, count = wanted[place]
        since.setdefault(place, time.monotonic())
        came[place].append(sample)
        if len(came[place]) < count:
            continue
        whole = sorted(came.pop(place), key=lambda sample: sample.index)
        failed = [sample for sample in whole if sample.finish == "error"]
        if failed:
            troubles[item.key] = f"{len(failed)} of {count} answers could not be had: {failed[0].error}"
            continue
        passed, empty, broken = _judged(plan, item, whole, how, memory)
        if broken:
            troubles[item.key] = broken
            continue
        lengths = [None if sample.token_ids is None else len(sample.token_ids) for sample in whole]
        record = {
            "item": item.key,
            "start": start,
            "count": count,
            "request": plan.request(item),
            "passed": passed,
            "texts": {str(index): whole[index - start].text for index in passed},
            "truncated": sum(sample.finish == "length" for sample in whole),
            "empty": empty,
            "tokens": None if None in lengths else sum(length or 0 for length in lengths),
            "seconds": round(time.monotonic() - since[place], 3),
        }
        file.add(record)
        draws[item.key].take(record)
        shown()
    for place, samples in came.items():
        item, _, count = wanted[place]
        troubles.setdefault(item.key, f"{count - len(samples)} of {count} answers did not come")


def _judged(
    plan: Plan, item: Item, samples: Sequence[Sample], how: How, memory: dict[tuple[str, str], bool]
) -> tuple[list[int], int, str]:
    """Numbers of the passing draws, how many texts held no answer, and what broke the judge ("" if nothing did).

    An answer that was cut off has not passed, whatever its beginning would be worth.
    """
    judge = plan.task.judge
    assert judge is not None
    answers = {
        sample.index: None if sample.finish == "length" else plan.task.answer(sample.text, item) for sample in samples
    }
    fresh = list(dict.fromkeys(a for a in answers.values() if a is not None and (item.key, a) not in memory))
    broken = ""

    def done(number: int, verdict: Verdict) -> None:
        nonlocal broken
        if verdict.correct is None:
            broken = broken or f"{verdict.status}: {verdict.detail}"[:300]
        else:
            memory[item.key, fresh[number]] = verdict.correct == 1

    if fresh:
        judge.judge([(item, answer) for answer in fresh], done, how)
    if broken:
        return [], 0, broken
    passed = [index for index, answer in answers.items() if answer is not None and memory[item.key, answer]]
    empty = sum(answers[sample.index] is None and sample.finish != "length" for sample in samples)
    return sorted(passed), empty, ""


def _bar(plan: Plan, before: int, silent: bool) -> Any:
    from tqdm import tqdm

    return tqdm(initial=before, desc=f"{plan.task.name}: draws", unit="draw", disable=True if silent else None)


def _show(bar: Any, draws: Mapping[str, ItemDraws], until: Until) -> None:
    """Draws so far of those that are expected, and items by state."""
    made = sum(each.drawn for each in draws.values())
    rest = expected_rest(list(draws.values()), until)
    resolved = sum(each.counts(until)[2] for each in draws.values())
    still = sum(each.open(until) for each in draws.values())
    bar.total = int(made + rest)
    bar.set_postfix(resolved=resolved, censored=len(draws) - resolved - still, open=still, refresh=False)
    bar.update(made - bar.n)
