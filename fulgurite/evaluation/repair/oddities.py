"""Counts of what is odd about the answers of a method: no program, the same one again, another function, values of the tests."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from fulgurite.evaluation.repair.book import Chain
from fulgurite.evaluation.repair.examples import hard_coded
from fulgurite.evaluation.repair.feedback import instead_of, passed
from fulgurite.evaluation.repair.plan import RepairPlan
from fulgurite.evaluation.tasks.code.programs import fenced

__all__ = ["counts_of", "same_program"]


def counts_of(
    plan: RepairPlan, chains: Iterable[Chain], answers: Iterable[Mapping[str, Any]], repeats: bool
) -> dict[str, int]:
    """How often each oddity was met; those that were not are left out.

    Args:
        plan: what was run.
        chains: of the method.
        answers: of the method, what it shares with others included.
        repeats: whether a program that equals the one before it is counted as handed in again.
    """
    names = {problem.item.key: problem.entry_point for problem in plan.problems}
    given = {problem.item.key for problem in plan.problems if problem.given is not None}
    found: Counter[str] = Counter()
    for chain in chains:
        before = None
        for verdict in chain.verdicts:
            program, tests, item = verdict["program"], tuple(verdict["tests"]), verdict["item"]
            found["no program"] += program is None
            found["no tests"] += verdict["feedback"]["status"] == "no tests"
            if program is None:
                continue
            if plan.feedback != "hidden" and tests:
                shown, hidden = passed(verdict["feedback"]), passed(verdict["hidden"])
                found["passed though wrong"] += shown and not hidden
                found["refused though right"] += hidden and not shown
            if names[item] and (verdict["turn"] > 0 or item not in given):  # others are not Python, and are not read
                found["other function"] += instead_of(program, names[item]) is not None
                held = bool(tests) and hard_coded(program, tests)
                found["hard-coded"] += held
                found["hard-coded only"] += held and passed(verdict["feedback"]) and not passed(verdict["hidden"])
            found["identical"] += repeats and before is not None and same_program(program, before)
            before = program
    for answer in answers:
        found[f"{answer['step']} cut off"] += answer["finish"] == "length"
        found["longer than the window"] += answer["finish"] == "window"
        if answer["step"] == "explanation":
            found["explanation empty"] += not answer["text"].strip()
            found["explanation with code"] += fenced(answer["text"]) is not None
    return {name: number for name, number in sorted(found.items()) if number}


def same_program(one: str, other: str) -> bool:
    """Whether two programs are the same but for comments, blanks and the like.

    Args:
        one: a program's source.
        other: another one's.
    """
    try:
        return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))
    except (SyntaxError, ValueError, RecursionError):
        return one.split() == other.split()
