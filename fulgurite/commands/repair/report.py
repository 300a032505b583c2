"""What `fulgurite repair` shows and leaves behind: tables of each run, prompts of a dry run, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from fulgurite.callbacks.picture import save
from fulgurite.evaluation.repair.book import Cost
from fulgurite.evaluation.repair.plan import METHODS, RepairPlan, Role
from fulgurite.evaluation.repair.problems import PROBLEMS
from fulgurite.evaluation.repair.results import MethodResult, RepairResult
from fulgurite.evaluation.runner.statistics import Number
from fulgurite.evaluation.tasks import TASKS

__all__ = ["draw", "errors_table", "methods_table", "moves_table", "prompts_shown", "tasks_table"]

_SHOWN = "…"  # stands in a dry run for what is known only when a program has run


def tasks_table() -> Table:
    """The tasks that can be repaired."""
    table = Table(title="tasks of repair", title_justify="left", title_style="bold")
    for name in ("task", "rows", "what it is"):
        table.add_column(name, overflow="fold")
    for name in sorted(PROBLEMS):
        task = TASKS[name]
        rows = ["file", *(["hub"] if task.hub is not None else []), *(["builtin"] if task.builtin is not None else [])]
        table.add_row(name, " ".join(rows), task.summary)
    return table


def methods_table(result: RepairResult) -> Table:
    """Solved after each turn, by method, with what it took.

    Args:
        result: of a run.
    """
    done, wanted = result.chains
    table = Table(
        title=f"{result.plan.task.name}, feedback {result.plan.feedback}: solved, {done} of {wanted} chains",
        title_justify="left",
        title_style="bold",
    )
    turns = result.plan.turns
    heads = ["method", *(f"turn {turn}" for turn in range(turns)), f"turn {turns}: value (95 %)"]
    heads += ["ours − it (95 %)", "newly solved", "same again", "programs", "calls", "tokens"]
    for name in heads:
        table.add_column(name, justify="left" if name == "method" else "right", overflow="fold")
    for method in result.methods:
        cells = [_share(number) for number in method.solved[:turns]]
        cells += [""] * (turns - len(cells))
        newly = " ".join(
            f"+{n}" if not lost else f"+{n}−{lost}" for n, lost in zip(method.newly, method.lost, strict=True)
        )
        apart = result.differences.get(method.name)
        table.add_row(
            method.name,
            *cells,
            _interval(method.solved[-1]),
            "" if apart is None else _interval(apart, "+"),
            newly if len(method.newly) <= turns + 1 else f"{len(method.newly)} rounds",
            "" if method.name.startswith("sampling") else str(method.counts.get("identical", 0)),
            str(method.programs),
            str(method.cost.calls),
            _tokens(method.cost),
        )
    return table


def moves_table(result: RepairResult) -> Table:
    """How errors change from one turn to the next.

    Args:
        result: of a run.
    """
    table = Table(title="intervenor: error before a turn, and after it", title_justify="left", title_style="bold")
    after = sorted({b for _, b in result.transitions} - {"solved"})
    for name in ("before", "solved", *after, "in all"):
        table.add_column(name, justify="left" if name == "before" else "right")
    for kind in sorted({a for a, _ in result.transitions}):
        row = [result.transitions.get((kind, other), 0) for other in ("solved", *after)]
        table.add_row(kind, *(str(n) if n else "" for n in row), str(sum(row)))
    return table


def errors_table(result: RepairResult) -> Table:
    """What share of chains is solved in the end, by the error of the first program.

    Args:
        result: of a run.
    """
    table = Table(title="intervenor: repaired, by the first error", title_justify="left", title_style="bold")
    for name in ("first error", "chains", "repaired", "share (95 %)"):
        table.add_column(name, justify="left" if name == "first error" else "right")
    for kind, (chains, fixed, share) in result.first_errors.items():
        table.add_row(kind, str(chains), str(fixed), _interval(share))
    return table


def _share(number: Number) -> str:
    return f"{number.value:.3f}"


def _interval(number: Number, sign: str = "") -> str:
    return f"{number.value:{sign}.3f} ({number.low:{sign}.3f} to {number.high:{sign}.3f})"


def _tokens(cost: Cost) -> str:
    return "unknown" if cost.tokens is None else f"{cost.tokens:,}"


def prompts_shown(plan: RepairPlan) -> str:
    """The prompts of the first problem, each as its model gets it; what only a run can tell is left open.

    Args:
        plan: of a run.
    """
    problem = plan.problems[0]
    open_ = dict.fromkeys(("explanation", "error", "error_type", "error_message", "failing_test", "actual"), _SHOWN)
    open_ |= dict.fromkeys(("expected", "program_line"), _SHOWN)
    parts = [f"{plan.task.name}: {len(plan.problems)} problems of {plan.found.source}, feedback {plan.feedback}"]

    def shown(name: str, role: Role, more: dict[str, object]) -> None:
        text = plan.templates.text(name, role.chat, {**problem.fields, **more})
        stops = role.drawn(name, problem.ends).stop
        parts.append(f"--- {name}, {problem.item.key}\n{text}")
        parts.append(f"    stops at: {', '.join(map(repr, stops)) or 'the end token only'}")

    if plan.feedback == "selfgen":
        shown("tests", plan.learner, {})
    if problem.given is None:
        shown("write", plan.learner, {})
    state = {**open_, "program": (problem.given or _SHOWN).strip("\n"), "turn": 1}
    for step, template in (step for name in plan.methods for step in METHODS[name]):
        shown(template, plan.teacher if step == "explanation" else plan.learner, state)
    return "\n".join(parts)


def draw(results: Sequence[RepairResult], path: Path) -> None:
    """A picture: of each run the share solved after each turn, and over the tokens that it took.

    Args:
        results: of the runs.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.8, 3.2 * len(results)), layout="constrained", dpi=110)
    grid = figure.subplots(len(results), 2, squeeze=False)
    for (left, right), result in zip(grid, results, strict=True):
        for number, method in enumerate(result.methods):
            if method.name != "sampling, equal tokens":
                _curve(left, method, f"C{number}", number)
            if method.cost.tokens is not None:
                value = method.solved[-1]
                bars = [[value.value - value.low], [value.high - value.value]]
                right.errorbar(
                    [method.cost.tokens], [value.value], bars, fmt="o", color=f"C{number}", capsize=3, label=method.name
                )
        left.set_title(result.task, fontsize=9)
        left.set_xlabel("turn (independent sampling: further programs)")
        left.set_xticks(range(result.plan.turns + 1))
        right.set_xlabel("tokens of all chains")
        for axes in (left, right):
            axes.set_ylim(-0.02, 1.02)
            axes.set_ylabel("solved, 95 %")
            axes.grid(alpha=0.3)
        if result.methods:
            (right if right.has_data() else left).legend(fontsize=7)
    save(figure, path)


def _curve(axes: Any, method: MethodResult, colour: str, number: int) -> None:
    """One method's curve, moved aside a little so that intervals do not hide each other."""
    x = [turn + 0.05 * number for turn in range(len(method.solved))]
    y = [value.value for value in method.solved]
    below = [value.value - value.low for value in method.solved]
    above = [value.high - value.value for value in method.solved]
    axes.errorbar(x, y, [below, above], marker="o", markersize=3, capsize=2, color=colour, label=method.name)
