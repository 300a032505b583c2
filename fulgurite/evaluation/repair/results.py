"""What the chains of a run add up to: solved after each turn, by which errors, at what cost, beside the baselines.

The mean is over items: of an item's chains the share of solved ones. Only chains that are done in every method count, so that all
methods are compared on the same ones. The interval of a difference between two methods is that of the items' paired differences.
For differences of −1, 0 and 1 it is Agresti and Min's (2005) adjusted Wald, which adds half an item to each kind of disagreement,
so that it has a width even where the methods never differ; else it is the mean ± 1.96 standard errors.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fulgurite.evaluation.repair.book import Book, Chain, Cost, Repaired, cost_of
from fulgurite.evaluation.repair.feedback import kind_of
from fulgurite.evaluation.repair.notes import warnings_of
from fulgurite.evaluation.repair.oddities import counts_of
from fulgurite.evaluation.repair.plan import FEEDBACK, SAMPLING, RepairPlan
from fulgurite.evaluation.runner.statistics import Number, mean_of

__all__ = ["BY_PROGRAMS", "BY_TOKENS", "MethodResult", "RepairResult", "difference_of", "summary"]

BY_PROGRAMS, BY_TOKENS = "sampling, equal programs", "sampling, equal tokens"
_Z = 1.959963984540054
_Chains = dict[tuple[str, int], Chain]


@dataclass(frozen=True)
class MethodResult:
    """One way to repair.

    Attributes:
        name: of the method.
        solved: share of items solved after 0, 1, … turns; of independent sampling after 1, 2, … programs.
        newly: chains that each turn solved.
        lost: chains that each turn broke again, which happens where the feedback is not that of the hidden tests.
        programs: that were written.
        cost: of all answers.
        counts: of what is odd about the answers.
    """

    name: str
    solved: list[Number]
    newly: list[int]
    lost: list[int]
    programs: int
    cost: Cost
    counts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        solved = [number.to_dict() for number in self.solved]
        return {**vars(self), "solved": solved, "cost": {**vars(self.cost), "tokens": self.cost.tokens}}


@dataclass(frozen=True)
class RepairResult:
    """The outcome of one task in one feedback mode.

    Attributes:
        plan: what was run.
        methods: ours first, then the baselines.
        chains: that are done, of how many.
        transitions: chains of ours by the error before a turn and the one after it ("solved" for none).
        first_errors: by the error of the first program: how many chains, how many of them solved in the end, with the share.
        differences: solved by ours minus solved by each baseline, in the end.
        warnings: whole sentences.
    """

    plan: RepairPlan
    methods: list[MethodResult]
    chains: tuple[int, int]
    transitions: dict[tuple[str, str], int]
    first_errors: dict[str, tuple[int, int, Number]]
    differences: dict[str, Number]
    warnings: list[str]

    @property
    def task(self) -> str:
        """Task and feedback mode."""
        return f"{self.plan.task.name} {self.plan.feedback}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "task": self.plan.task.name,
            "feedback": self.plan.feedback,
            "feedback_means": FEEDBACK[self.plan.feedback],
            "source": self.plan.found.source,
            "turns": self.plan.turns,
            "chains_of_an_item": self.plan.n,
            "items": len(self.plan.problems),
            "chains": {"done": self.chains[0], "wanted": self.chains[1]},
            "methods": {method.name: method.to_dict() for method in self.methods},
            "transitions": [{"from": a, "to": b, "chains": n} for (a, b), n in sorted(self.transitions.items())],
            "first_errors": {
                kind: {"chains": n, "repaired": fixed, "share": share.to_dict()}
                for kind, (n, fixed, share) in self.first_errors.items()
            },
            "differences": {name: number.to_dict() for name, number in self.differences.items()},
            "warnings": self.warnings,
            "identity": self.plan.identity(),
        }


def summary(plan: RepairPlan, done: Repaired) -> RepairResult:
    """The numbers of a run.

    Args:
        plan: what was run.
        done: its records and troubles. Where a budget ended the run, the turns that it had count as all.
    """
    plan = plan if done.turns is None else replace(plan, turns=done.turns)
    names = [*plan.methods, *([SAMPLING] if plan.baselines else [])]
    all_ = {name: _chains(plan, done.book, name) for name in names}
    whole = [key for key in all_["intervenor"] if all(_ended(plan, all_[name][key]) for name in names)]
    kept: dict[str, _Chains] = {name: {key: chains[key] for key in whole} for name, chains in all_.items()}
    counted = done.book.prompts_counted
    methods = [_method(plan, name, kept[name], plan.turns, counted) for name in plan.methods] if whole else []
    ours = kept["intervenor"]
    solved_by: dict[str, tuple[_Chains, int]] = {name: (kept[name], plan.turns) for name in plan.methods}
    if plan.baselines and whole:
        rounds = _within(
            kept[SAMPLING], methods[0].cost.tokens, counted
        )  # none where one of each chain takes more already
        methods.append(_method(plan, BY_PROGRAMS, kept[SAMPLING], plan.turns, counted))
        solved_by[BY_PROGRAMS] = (kept[SAMPLING], plan.turns)
        if rounds is not None:
            methods.append(_method(plan, BY_TOKENS, kept[SAMPLING], rounds, counted))
            solved_by[BY_TOKENS] = (kept[SAMPLING], rounds)
    differences = {
        name: difference_of(_by_item(ours, plan.turns), _by_item(*found))
        for name, found in solved_by.items()
        if name != "intervenor" and whole
    }
    result = RepairResult(
        plan,
        methods,
        (len(whole), len(all_["intervenor"])),
        _moves(ours),
        _first_errors(ours, plan.turns),
        differences,
        [],
    )
    return RepairResult(**{**vars(result), "warnings": warnings_of(plan, done, methods, len(whole), BY_TOKENS)})


def difference_of(ours: Sequence[float], theirs: Sequence[float]) -> Number:
    """The mean difference of paired values, with its interval; see the module's docstring.

    Args:
        ours: a value of each item, 0 to 1.
        theirs: of the same items.
    """
    apart = [a - b for a, b in zip(ours, theirs, strict=True)]
    n, mean = len(apart), math.fsum(apart) / len(apart)
    if all(value in (-1.0, 0.0, 1.0) for value in apart):
        more, less = apart.count(1.0) + 0.5, apart.count(-1.0) + 0.5
        middle = (more - less) / (n + 2)
        error = math.sqrt(more + less - (more - less) ** 2 / (n + 2)) / (n + 2)
    else:
        middle = mean
        error = math.sqrt(math.fsum((value - mean) ** 2 for value in apart) / max(n - 1, 1) / n)
    low, high = min(middle - _Z * error, mean), max(middle + _Z * error, mean)
    return Number(mean, error, max(low, -1.0), min(high, 1.0), n)


def _chains(plan: RepairPlan, book: Book, method: str) -> _Chains:
    most = None if method == SAMPLING else plan.turns
    return {
        (p.item.key, i): book.chain(method, p.item.key, i, p.given is not None, most)
        for p in plan.problems
        for i in range(plan.n)
    }


def _ended(plan: RepairPlan, chain: Chain) -> bool:
    return chain.ended or len(chain.verdicts) > plan.turns


def _by_item(chains: _Chains, turn: int) -> list[float]:
    """The share of solved chains of each item after so many turns."""
    items: dict[str, list[float]] = {}
    for (item, _), chain in chains.items():
        items.setdefault(item, []).append(float(chain.solved(turn)))
    return [sum(values) / len(values) for values in items.values()]


def _method(plan: RepairPlan, name: str, chains: _Chains, turns: int, prompts: bool) -> MethodResult:
    cut = {key: _first_turns(chain, turns) for key, chain in chains.items()}
    newly, lost = [], []
    for turn in range(turns + 1):
        now = [chain.solved(turn) for chain in cut.values()]
        before = [turn > 0 and chain.solved(turn - 1) for chain in cut.values()]
        newly.append(sum(a and not b for a, b in zip(now, before, strict=True)))
        lost.append(sum(b and not a for a, b in zip(now, before, strict=True)))
    answers = [answer for chain in cut.values() for answer in chain.answers]
    return MethodResult(
        name,
        [mean_of(_by_item(cut, turn)) for turn in range(turns + 1)],
        newly,
        lost,
        sum(answer["step"] == "program" for answer in answers),
        cost_of(answers, prompts),
        counts_of(plan, cut.values(), answers, repeats=not name.startswith(SAMPLING)),
    )


def _first_turns(chain: Chain, turns: int) -> Chain:
    return Chain(chain.verdicts[: turns + 1], [answer for answer in chain.answers if answer["turn"] <= turns])


def _within(chains: _Chains, budget: int | None, prompts: bool) -> int | None:
    """The last round of independent samples up to which no more tokens were used than the budget; None where that is not known."""
    last = max((len(chain.verdicts) for chain in chains.values()), default=0)
    found = None
    for turn in range(last):
        answers = [answer for chain in chains.values() for answer in _first_turns(chain, turn).answers]
        used = cost_of(answers, prompts).tokens
        if budget is None or used is None:
            return None
        if used > budget:
            break
        found = turn
    return found


def _moves(chains: _Chains) -> dict[tuple[str, str], int]:
    found: Counter[tuple[str, str]] = Counter()
    for chain in chains.values():
        kinds = [kind_of(verdict["hidden"]) for verdict in chain.verdicts]
        found.update(itertools.pairwise(kinds))
    return dict(found)


def _first_errors(chains: _Chains, turns: int) -> dict[str, tuple[int, int, Number]]:
    by_kind: dict[str, list[float]] = {}
    for chain in chains.values():
        kind = kind_of(chain.verdicts[0]["hidden"])
        if kind != "solved":
            by_kind.setdefault(kind, []).append(float(chain.solved(turns)))
    ordered = sorted(by_kind.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return {kind: (len(values), int(sum(values)), mean_of(values)) for kind, values in ordered}
