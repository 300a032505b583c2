"""What a reader of a run's numbers should know, as whole sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from fulgurite.evaluation.repair.book import Cost
from fulgurite.evaluation.repair.plan import FEEDBACK, RepairPlan, Role

__all__ = ["warnings_of"]

_MANY = 0.05  # share of answers from which on something is said


class _Method(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def programs(self) -> int: ...
    @property
    def cost(self) -> Cost: ...
    @property
    def counts(self) -> dict[str, int]: ...


class _Done(Protocol):
    @property
    def book(self) -> Iterable[Mapping[str, Any]]: ...
    @property
    def spent(self) -> str: ...
    @property
    def troubles(self) -> dict[tuple[str, str, int], str]: ...


def warnings_of(plan: RepairPlan, done: _Done, methods: Sequence[_Method], whole: int, by_tokens: str) -> list[str]:
    """The sentences.

    Args:
        plan: what was run.
        done: its records and troubles.
        methods: their results.
        whole: chains that are done.
        by_tokens: the name of sampling at an equal budget of tokens.
    """
    found = [f"feedback {plan.feedback}: {FEEDBACK[plan.feedback]}"]
    found += [done.spent] if done.spent else []
    wanted = len(plan.problems) * plan.n
    if plan.found.bad:
        found.append(f"{len(plan.found.bad)} broken rows were left out, the first: {plan.found.bad[0]}")
    if whole < wanted:
        first = next(iter(done.troubles.items()), None)
        why = "" if first is None else f" ({first[0][0]}, {first[0][1]}: {first[1]})"
        found.append(
            f"{wanted - whole} of {wanted} chains are not done and have no part in the numbers{why}; run the same command again"
        )
    for method in methods:
        found += _about(plan, method)
    if not plan.baselines:
        found.append("the baselines were left out: what the same budget would solve without a teacher is not known")
    elif whole and by_tokens not in [method.name for method in methods]:
        found.append(
            "sampling at an equal budget of tokens is missing: the server does not say how many tokens it used"
            if any(method.cost.tokens is None for method in methods)
            else "sampling at an equal budget of tokens solves nothing: a program of each chain takes more tokens than all of ours"
        )
    return found + _uncounted(plan, done.book)


def _uncounted(plan: RepairPlan, book: Iterable[Mapping[str, Any]]) -> list[str]:
    """By whom answers or prompts were not counted, each backend once."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for record in book:
        if record["step"] != "verdict":
            role = plan.teacher if record["step"] == "explanation" else plan.learner
            by_name.setdefault(_name(role), []).append(record)
    found = []
    for name, answers in by_name.items():
        silent = sum(answer["tokens"] is None for answer in answers)
        if silent:
            found.append(
                f"{name} does not say how many tokens {silent} of its {len(answers)} answers have: its responses hold neither "
                "usage nor log-probabilities"
            )
        if any(answer["prompt_tokens"] is None for answer in answers):
            found.append(f"tokens are those of the answers: the tokens of the prompts of {name} cannot be counted")
    return found


def _name(role: Role) -> str:
    writer = role.backend.identity()
    where = writer.get("server", writer["backend"])
    return f"{where}, model {writer['model']}" if "model" in writer else str(where)


def _about(plan: RepairPlan, method: _Method) -> list[str]:
    """What is odd about the answers of one method."""
    counts, lead, calls = method.counts, method.name, max(method.cost.calls, 1)
    tests = "the examples" if plan.feedback == "visible" else "the model's own tests"
    length = plan.teacher.settings.max_new_tokens
    said = {
        "no program": "answers hold no program",
        "other function": "programs define another function than the one that is asked for",
        "hard-coded": "programs hold the values of a test that was shown",
        "hard-coded only": "of the programs with such values pass what is shown and fail the hidden tests",
        "passed though wrong": f"programs pass {tests} and fail the hidden ones",
        "refused though right": f"programs fail {tests} and pass the hidden ones",
        "explanation cut off": f"explanations were cut off at {length} tokens",
        "explanation empty": "explanations are empty",
        "longer than the window": "prompts are longer than the model's window and were not answered",
    }
    found = [f"{lead}: {counts[name]} {what}" for name, what in said.items() if counts.get(name)]
    cut = counts.get("program cut off", 0)
    if cut > _MANY * calls:
        found.append(
            f"{lead}: {cut} programs were cut off at {plan.learner.settings.max_new_tokens} tokens: raise max_new_tokens"
        )
    none = counts.get("no tests", 0)
    if none:
        what = "the problem shows no example" if plan.feedback == "visible" else "the model wrote no usable test"
        found.append(f"{lead}: {none} chains ended at their first program because {what}")
    return found
