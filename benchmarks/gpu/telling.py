"""What the campaign says: the plan before it starts, the summary when it ends."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.goals import verdict
from benchmarks.gpu.pieces import Piece
from benchmarks.harness.registry import OURS

__all__ = ["plan", "summary"]


def plan(pieces: Sequence[Piece], toy: bool, budget: float | None) -> list[str]:
    """Lines: each piece with its reason, its time-out and what it decides; then the time of all together."""
    lines = [f"The campaign: {len(pieces)} pieces, each in a process of its own, in the order of their value."]
    for number, piece in enumerate(pieces, 1):
        lines += [
            f"{number:2}. {piece.name}, {piece.seconds} s at the most",
            f"    why:     {piece.why}",
            f"    decides: {piece.decides}",
            *(f"    goal:    {goal.text} {'≥' if goal.at_least else '≤'} {goal.limit:g}" for goal in piece.goals),
            f"    command: {shlex.join(piece.toy if toy else piece.command).replace(shlex.quote('{python}'), 'python')}",
        ]
        lacking = None if toy else piece.missing()
        if lacking is not None:
            lines.append(f"    cannot run here: {lacking}")
    together = sum(piece.seconds for piece in pieces)
    lines.append(f"All time-outs together: {together} s." + (f" Budget: {budget:g} s." if budget is not None else ""))
    return lines


def summary(pieces: Sequence[Piece], state: Mapping[str, Any]) -> list[str]:
    """Lines: what each piece found and which goals it reached, then what is left."""
    lines, left = ["What was found:"], []
    for piece in pieces:
        found = state["pieces"].get(piece.name)
        if found is None or found["status"] != "done":
            why = "not run" if found is None else f"{found['status']}{': ' + found['why'] if found['why'] else ''}"
            left.append(f"  {piece.name} ({why})")
            continue
        lines.append(
            f"  {piece.name}: done in {found['seconds']:.0f} s" + (f"; {found['why']}" if found["why"] else "")
        )
        figures = found.get("figures", {})
        lines += [f"    {line}" for line in _rows(figures)]
        if not state["toy"]:
            lines += [f"    goal {verdict(goal, figures)}" for goal in piece.goals]
    if not left:
        return [*lines, "Nothing is left."]
    return [*lines, "Left:", *left, "The same command with --resume goes on with them."]


def _rows(figures: Mapping[str, Any]) -> list[str]:
    """A line for each workload: ours, and the others over ours."""
    lines = []
    for workload in figures.get("workloads", ()):
        rows = {name: row for name, row in workload["contenders"].items() if "median_ms" in row}
        ours = rows.get(OURS)
        if ours is None:
            continue
        others = [f"{n} {row['median_ms'] / ours['median_ms']:.2f}×" for n, row in rows.items() if n != OURS]
        lines.append(f"{workload['name']}: {ours['median_ms']:.3g} ms{_rate(workload, ours)}; {', '.join(others)}")
    for name, row in figures.get("recipes", {}).items():
        if "not_run" in row:
            lines.append(f"{name}: not run, {row['not_run']}")
            continue
        waits = f", waits {sum(row['waits'].values())}" if "waits" in row else ""
        lines.append(f"{name}: exit status {row['status']}, {row['seconds']:.0f} s{waits}")
    return lines


def _rate(workload: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Tokens and operations a second, where the workload tells how many a step has."""
    seconds = row["median_ms"] / 1e3
    parts = [f"{workload['tokens_per_step'] / seconds:,.0f} tokens/s"] if "tokens_per_step" in workload else []
    if "flops_per_step" in workload:
        rate = workload["flops_per_step"] / seconds
        parts.append(f"{rate / 1e12:.0f} TFLOP/s")
        if "peak_flops" in workload:
            parts.append(f"MFU {rate / workload['peak_flops']:.0%}")
    return f" ({', '.join(parts)})" if parts else ""
