"""When draws end: at the r-th pass of each instance, or at the r-th pass of the whole task. Which draws are made next.

Each draw of an instance has a number before it is made. **Of each instance**: an instance ends with its r-th pass, or at the cap.

**Of the task**: the draws of the task are put in an order beforehand. The t-th draw goes to an instance picked at random from all
of them (each pick independent of the others, from the run's seed), and is that instance's next one by number. A draw from this
order passes with probability PU, the mean of the instances' rates, independently of all others; so with K the place of the r-th
pass, (r − 1)/(K − 1) is exactly unbiased for PU, c/M where a cap of M draws comes first, and the interval of
`estimators.interval` is exact (inverse binomial sampling; picks without replacement would have a smaller variance and a bias).
Where K falls depends on the order alone, not on which answer was finished first, nor on how many draws a batch had; draws behind
K do not count.

Both rules take the same draws: a run of one goes on as a run of the other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["ItemDraws", "Stop", "TaskCount", "Until", "WholeTask", "expected_rest", "stop_of"]

_FIRST, _LARGEST = 64, 4096  # draws of an instance's batch
_ROUND = 8192  # draws that the backend is asked for at once
_SMALLEST_RATE = 1e-9  # below, numpy's negative binomial overflows; no cap that anybody can afford is reached there


@dataclass(frozen=True)
class Until:
    """When draws end.

    Attributes:
        passes: r, from 2: for r = 1 no useful unbiased estimate exists.
        cap: draws at most, of an instance or of the task.
        of: what has to have r passes: each instance, or the task.

    Raises:
        ValueError: r below 2, a cap below r, or neither instance nor task.
    """

    passes: int
    cap: int = 100_000
    of: Literal["instance", "task"] = "instance"

    def __post_init__(self) -> None:
        if self.passes < 2:
            raise ValueError(f"until_passes={self.passes}; give 2 or more: one pass gives no unbiased estimate")
        if self.cap < self.passes:
            raise ValueError(f"cap={self.cap} with until_passes={self.passes}; give a cap of at least that many draws")
        if self.of not in _RULES:
            raise ValueError(f"until_passes_of={self.of!r}; allowed are {', '.join(_RULES)}; choose one of them")


@dataclass
class ItemDraws:
    """The draws of one instance so far.

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
        """n draws, c passes among them, and whether the instance is done with r passes (n is then the r-th pass's number)."""
        if len(self.passed) >= until.passes and self.passed[until.passes - 1] < until.cap:
            return self.passed[until.passes - 1] + 1, until.passes, True
        n = min(self.drawn, until.cap)
        return n, self.passes_within(n), False

    def passes_within(self, n: int) -> int:
        """Passes among the first n draws."""
        return sum(number < n for number in self.passed)

    def open(self, until: Until) -> bool:
        """Whether it needs more draws to have r passes of its own."""
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
class TaskCount:
    """The draws of a task in their order.

    Attributes:
        n: draws that count: up to the r-th pass, else all that are made without a gap, the cap at most.
        c: passes among them.
        reached: whether there are r.
        open: whether more draws are needed.
        items: of these draws and passes, how many belong to each instance.
        passed: places of the passes in the order, from 0.
    """

    n: int
    c: int
    reached: bool
    open: bool
    items: dict[str, tuple[int, int]]
    passed: tuple[int, ...]


class Stop(Protocol):
    """A rule of stopping."""

    def wanted(self, draws: Mapping[str, ItemDraws], troubles: Mapping[str, str]) -> list[tuple[str, int, int]]:
        """The next batches: instance, number of its first draw, draws; none where the rule is met.

        Args:
            draws: of all instances so far.
            troubles: instances whose answers could not be had.
        """

    def states(self, draws: Mapping[str, ItemDraws]) -> dict[str, int]:
        """How many instances (or tasks) are resolved (r passes), censored (at the cap with fewer) and open."""

    def bounds(self, draws: Mapping[str, ItemDraws]) -> tuple[int, int]:
        """Draws that are still needed at least (each passes), and at most (the cap ends them)."""

    def expected(self, draws: Mapping[str, ItemDraws]) -> float:
        """Draws that are still needed by the rates so far, the cap counted."""

    def span(self, draws: Mapping[str, ItemDraws], repeats: int) -> tuple[float, float, float]:
        """The same by simulation: low end, middle and high end of a range that holds the number 19 times in 20."""

    def task(self, draws: Mapping[str, ItemDraws]) -> TaskCount | None:
        """The count of the whole task; None for a rule that counts instances."""


def expected_rest(draws: Sequence[ItemDraws], until: Until) -> float:
    """Draws that the open instances still need, by the mean of each one's pass rate under the prior Beta(½, ½), the cap counted."""
    rest = 0.0
    for each in draws:
        if each.open(until):
            rate = (len(each.passed) + 0.5) / (each.drawn + 1)
            rest += min(until.cap - each.drawn, (until.passes - len(each.passed)) / rate)
    return rest


class EachInstance:
    """Until r passes of each instance; those with the fewest draws go first."""

    def __init__(self, until: Until, keys: Sequence[str], name: str, seed: int) -> None:
        self.until, self.keys = until, list(keys)

    def wanted(self, draws: Mapping[str, ItemDraws], troubles: Mapping[str, str]) -> list[tuple[str, int, int]]:
        found: list[tuple[str, int, int]] = []
        total = 0
        open_ones = [key for key in self.keys if draws[key].open(self.until) and key not in troubles]
        for key in sorted(open_ones, key=lambda key: draws[key].drawn):
            start = draws[key].drawn
            count = min(max(_FIRST, min(start, _LARGEST)), self.until.cap - start)
            if found and total + count > _ROUND:
                break
            found.append((key, start, count))
            total += count
        return found

    def states(self, draws: Mapping[str, ItemDraws]) -> dict[str, int]:
        found = {"resolved": 0, "censored": 0, "open": 0}
        for each in draws.values():
            done = each.counts(self.until)[2]
            found["resolved" if done else "open" if each.open(self.until) else "censored"] += 1
        return found

    def bounds(self, draws: Mapping[str, ItemDraws]) -> tuple[int, int]:
        still = [each for each in draws.values() if each.open(self.until)]
        least = sum(min(self.until.passes - len(each.passed), self.until.cap - each.drawn) for each in still)
        return least, sum(self.until.cap - each.drawn for each in still)

    def expected(self, draws: Mapping[str, ItemDraws]) -> float:
        return expected_rest(list(draws.values()), self.until)

    def span(self, draws: Mapping[str, ItemDraws], repeats: int) -> tuple[float, float, float]:
        """For the upper end, instances without a pass go to the cap: nothing says how rarely they pass."""
        still = [each for each in draws.values() if each.open(self.until)]
        c, n = (np.array(values, np.int64) for values in ([len(e.passed) for e in still], [e.drawn for e in still]))
        room = self.until.cap - n
        rest = np.minimum(room, _rest(self.until.passes - c, c, n, repeats))
        high = np.where(c > 0, rest, room)
        low, middle = np.percentile(rest.sum(1), (2.5, 50))
        return float(low), float(middle), float(np.percentile(high.sum(1), 97.5))

    def task(self, draws: Mapping[str, ItemDraws]) -> TaskCount | None:
        return None


class WholeTask:
    """Until r passes of the task, draws going to instances at random.

    Args:
        until: r and the cap.
        keys: the instances.
        name: of the task, part of the order's seed.
        seed: the run's.
    """

    def __init__(self, until: Until, keys: Sequence[str], name: str, seed: int) -> None:
        self.until, self.keys = until, list(keys)
        # random() from a text gives the same numbers on every machine and Python version; choice() does not.
        self._random = random.Random(f"until r passes of the task|{name}|{seed}")
        self._turns: dict[str, list[int]] = {key: [] for key in keys}  # places in the order at which each one is drawn
        self._known = 0

    def _know(self, places: int) -> None:
        for place in range(self._known, places):
            self._turns[self.keys[int(self._random.random() * len(self.keys))]].append(place)
        self._known = max(self._known, places)

    def _made(self, draws: Mapping[str, ItemDraws]) -> int:
        """How far the order is made without a gap."""
        while True:
            ends = (turns[draws[key].drawn] for key, turns in self._turns.items() if draws[key].drawn < len(turns))
            made = min(ends, default=self._known)
            if made < self._known or self._known >= self.until.cap:
                return min(made, self.until.cap)
            self._know(min(self.until.cap, max(2 * self._known, 1024)))

    def task(self, draws: Mapping[str, ItemDraws]) -> TaskCount:
        made, r = self._made(draws), self.until.passes
        places = sorted(
            turns[number] for key, turns in self._turns.items() for number in draws[key].passed if number < len(turns)
        )
        passed = [place for place in places if place < made][:r]
        reached = len(passed) == r
        n = passed[-1] + 1 if reached else made
        items = {}
        for key, turns in self._turns.items():
            own = int(np.searchsorted(turns, n))
            items[key] = (own, draws[key].passes_within(own))
        return TaskCount(n, len(passed), reached, not reached and made < self.until.cap, items, tuple(passed))

    def wanted(self, draws: Mapping[str, ItemDraws], troubles: Mapping[str, str]) -> list[tuple[str, int, int]]:
        """As many draws as there are, or half of what the rates so far ask for if that is less: few are made behind the r-th pass.

        None are made behind a draw that could not be had.
        """
        found = self.task(draws)
        if not found.open or troubles:
            return []
        more = max(_FIRST, min(found.n, int(self._lacking(found) / 2), _ROUND))
        more = min(more, self.until.cap - found.n)
        self._know(found.n + more)
        batches = []
        for key, turns in self._turns.items():
            count = int(np.searchsorted(turns, found.n + more)) - draws[key].drawn
            if count > 0:
                batches.append((key, draws[key].drawn, count))
        return batches

    def _lacking(self, found: TaskCount) -> float:
        return (self.until.passes - found.c) * (found.n + 1) / (found.c + 0.5)

    def states(self, draws: Mapping[str, ItemDraws]) -> dict[str, int]:
        found = self.task(draws)
        state = "resolved" if found.reached else "open" if found.open else "censored"
        return {name: int(name == state) for name in ("resolved", "censored", "open")}

    def bounds(self, draws: Mapping[str, ItemDraws]) -> tuple[int, int]:
        found = self.task(draws)
        room = self.until.cap - found.n if found.open else 0
        return min(self.until.passes - found.c, room), room

    def expected(self, draws: Mapping[str, ItemDraws]) -> float:
        found = self.task(draws)
        return min(self.until.cap - found.n, self._lacking(found)) if found.open else 0.0

    def span(self, draws: Mapping[str, ItemDraws], repeats: int) -> tuple[float, float, float]:
        found = self.task(draws)
        if not found.open:
            return 0.0, 0.0, 0.0
        c, n = np.array([found.c]), np.array([found.n])
        rest = np.minimum(self.until.cap - found.n, _rest(self.until.passes - c, c, n, repeats))
        low, middle, high = np.percentile(rest, (2.5, 50, 97.5))
        return float(low), float(middle), float(high)


def _rest(
    lacking: npt.NDArray[np.int64], c: npt.NDArray[np.int64], n: npt.NDArray[np.int64], repeats: int
) -> npt.NDArray[np.int64]:
    """Further draws until the lacking passes, [repeats, instances], each rate drawn from its posterior under Beta(½, ½)."""
    rng = np.random.default_rng(0)
    rate = np.maximum(rng.beta(c + 0.5, n - c + 0.5, (repeats, len(c))), _SMALLEST_RATE)
    return np.asarray(lacking + rng.negative_binomial(lacking, rate))


_RULES: dict[str, Callable[[Until, Sequence[str], str, int], Stop]] = {"instance": EachInstance, "task": WholeTask}


def stop_of(until: Until, keys: Sequence[str], name: str, seed: int) -> Stop:
    """The rule that `until` names, over a task's instances.

    Args:
        until: which rule, r and the cap.
        keys: the instances, in the task's order.
        name: of the task.
        seed: the run's.
    """
    return _RULES[until.of](until, keys, name, seed)
