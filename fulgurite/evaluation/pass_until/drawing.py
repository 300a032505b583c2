"""Draws answers until r of them pass, or until a cap: the sampling of PassUntil (arXiv 2310.03262, Sec 4.1).

Draws have numbers before they are made (the number is part of a draw's seed), and what counts is the number of the r-th pass: never
the order in which answers are finished, because short answers finish first and may pass more often. Which draws are made next, and
when they end, is said by the rule in `stopping`: r passes of each item, whose batches grow from 64 to 4096 draws, or of the task.

Each batch of an item is one line of OUT/TASK/draws.jsonl: numbers of the passes, not the texts, of which only the passing ones are
kept. A run that is stopped goes on with the next batch of each item; r, the cap and the rule can be changed later. The same answer
to the same item is judged once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulgurite.evaluation.judging.verdicts import How, Verdict
from fulgurite.evaluation.pass_until.forecast import forecast_of
from fulgurite.evaluation.pass_until.stopping import ItemDraws, Stop, TaskCount, Until, stop_of
from fulgurite.evaluation.runner.plan import Plan
from fulgurite.evaluation.runner.record_file import IdentityError, RecordFile
from fulgurite.evaluation.tasks.task import Item
from fulgurite.generation.protocol import Backend, Request, Sample

__all__ = ["Drawn", "draw_until"]

_KEY = ("item", "start")


@dataclass(frozen=True)
class Drawn:
    """What a call of `draw_until` leaves.

    Attributes:
        items: in the task's order.
        until: when draws ended.
        stop: the rule.
        new: draws that this call made.
        seconds: that it took.
        troubles: why items are still open: answers that could not be had, a sandbox that is broken.
        repaired: bytes of a torn last line that were cut off.
        identity: what the draws depend on.
        judge: what the verdicts depend on.
    """

    items: list[ItemDraws]
    until: Until
    stop: Stop
    new: int
    seconds: float
    troubles: list[str]
    repaired: int
    identity: dict[str, Any]
    judge: dict[str, Any]

    def states(self) -> dict[str, int]:
        """Items by state: resolved (r passes), censored (at the cap with fewer), open; by the rule of the task, the task alone."""
        return self.stop.states({each.item: each for each in self.items})

    def task(self) -> TaskCount | None:
        """The count of the task in its order of draws; None where each item was drawn until r passes."""
        return self.stop.task({each.item: each for each in self.items})


def draw_until(
    plan: Plan,
    backend: Backend,
    until: Until,
    how: How,
    overwrite: bool = False,
    silent: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Drawn:
    """Draws and judges until every item, or the task, is done.

    Args:
        plan: the task, of answers; its settings have a temperature above 0, and its n has no meaning here.
        backend: what writes the answers.
        until: when draws end.
        how: what the user chose about judging.
        overwrite: begin anew.
        silent: show no progress.
        tell: gets the forecast of draws, tokens and time, before the first batch and after the first round.

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
    by_key = {item.key: item for item in plan.items}
    stop = stop_of(until, list(by_key), plan.task.name, plan.settings.seed)
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

        def new() -> int:
            return sum(each.drawn for each in draws.values()) - before

        def forecast(since: float) -> None:
            longest = plan.settings.max_new_tokens
            told = forecast_of(stop, draws, longest, new(), time.monotonic() - since).told(
                plan.task.name, until, len(draws)
            )
            if tell is not None and told:
                tell(told)

        forecast(begun)
        with _bar(plan, before, silent) as bar:
            asking = time.monotonic()
            while wanted := stop.wanted(draws, troubles):
                batches = [(by_key[key], start, count) for key, start, count in wanted]
                first = not new()
                _round(plan, backend, how, batches, memory, draws, file, troubles, lambda: _show(bar, draws, stop))
                if first:
                    forecast(asking)
        found = [draws[item.key] for item in plan.items]
        told = [f"{item}: {why}" for item, why in troubles.items()]
        return Drawn(
            found,
            until,
            stop,
            new(),
            time.monotonic() - begun,
            told,
            file.repaired,
            identity,
            verdicts,
        )


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
        lengths = [sample.tokens for sample in whole]
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


def _show(bar: Any, draws: Mapping[str, ItemDraws], stop: Stop) -> None:
    """Draws so far of those that are expected, and items (or the task) by state."""
    made = sum(each.drawn for each in draws.values())
    bar.total = int(made + stop.expected(draws))
    bar.set_postfix(**stop.states(draws), refresh=False)
    bar.update(made - bar.n)
