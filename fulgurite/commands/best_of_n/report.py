"""What `fulgurite best-of-n` shows and leaves behind: a table for each measure, a picture, results.json, a line for each prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from fulgurite.callbacks.picture import panels, save
from fulgurite.evaluation.selection.candidates import Candidates, Found
from fulgurite.evaluation.selection.curves import kl_bound
from fulgurite.evaluation.selection.intervals import Estimate
from fulgurite.evaluation.selection.rules import best
from fulgurite.evaluation.selection.study import Curve, Study
from fulgurite.whole_files import write_text

__all__ = ["Outcome", "curves_table", "draw", "facts_table", "write_prompts"]

_COLOURS = {
    "one sample": "tab:gray", "best": "tab:blue", "majority": "tab:orange", "weighted": "tab:green", "oracle": "tab:red"
}  # fmt: skip
_TITLES = {
    "right": "share of right answers",
    "judge": "the judge's reward",
    "reward": "the choosing reward",
    "tokens": "tokens of the answer",
}


@dataclass(frozen=True)
class Outcome:
    """The study of one task, or of a file.

    Attributes:
        task: its name.
        scorer: what chose; None for votes alone.
        judge: what judged beside a checker; None without.
        study: the curves.
        identity: what rewards depend on.
    """

    task: str
    scorer: str | None
    judge: str | None
    study: Study
    identity: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"scorer": self.scorer, "judge": self.judge, **self.study.to_dict(), "identity": self.identity}


def _shown(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "none"
    interval = "" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{interval}"


def curves_table(outcome: Outcome, measure: str) -> Table:
    """The rules under one measure, a line for each n.

    Args:
        outcome: of a task.
        measure: right, judge, reward or tokens.
    """
    study = outcome.study
    curves = [curve for curve in study.curves if curve.measure == measure]
    table = Table(
        title=f"{outcome.task}: {_TITLES[measure]} [95 %]",
        title_justify="left",
        title_style="bold",
        caption_justify="left",
    )
    table.add_column("n", justify="right")
    table.add_column("KL ≤", justify="right")
    for curve in curves:
        table.add_column(curve.rule, justify="right")
    for k, n in enumerate(study.steps):
        table.add_row(str(n), f"{kl_bound(n):.2f}", *(_shown(curve.points[k]) for curve in curves))
    return table


def facts_table(outcome: Outcome) -> Table:
    """Paired differences at the largest n, what the reward agrees with, and what is odd about the answers."""
    study = outcome.study
    table = Table(title=outcome.task, title_justify="left", title_style="bold", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("prompts, answers of each", f"{len(study.prompts):,}, {study.samples}")
    table.add_row("chosen by", outcome.scorer or "votes alone")
    if outcome.judge is not None:
        table.add_row("judged by", outcome.judge)
    for measure, leads in study.leads.items():
        for name, lead in leads.items():
            table.add_row(f"{name}, n = {study.samples}, {_TITLES[measure]}", _shown(lead))
    for measure, (n, fall) in study.falls.items():
        table.add_row(f"best is highest at n = {n}; from there to {study.samples}, {_TITLES[measure]}", _shown(fall))
    for measure, share in study.pair_accuracy.items():
        table.add_row(f"pairs of a prompt's answers that the reward orders as {measure} does", f"{share:.1%}")
    for where, r in study.length_correlation.items():
        table.add_row(f"correlation of reward and length, {where}", f"{r:+.3f}")
    for name, count in study.counts.items():
        if count and name != "answers":
            table.add_row(name, f"{count:,}")
    return table


def draw(outcome: Outcome, path: Path) -> None:
    """A picture: the rules under the measure that decides, and reward against judge over √KL.

    Args:
        outcome: of a task.
        path: the PNG to write.
    """
    study = outcome.study
    decisive = next(m for m in ("right", "judge", "reward") if any(c.measure == m for c in study.curves))
    reward = study.curve("reward", "best")
    others = [c for m in ("right", "judge") if (c := study.curve(m, "best")) is not None]
    lengths = study.curve("tokens", "best")
    both = reward is not None and bool(others)
    figure, axes = panels(1 + both + (lengths is not None))
    for curve in study.curves:
        if curve.measure == decisive:
            _line(axes[0], study.steps, curve.points, _COLOURS[curve.rule], curve.rule)
    axes[0].set_ylabel(_TITLES[decisive])
    axes[0].set_title(f"{outcome.task}: {len(study.prompts)} prompts, {study.samples} answers of each", fontsize=9)
    axes[0].legend(fontsize=7)
    _by_n(axes[0], study.steps)
    if both and reward is not None:
        roots = [math.sqrt(kl_bound(n)) for n in study.steps]
        for curve, colour in zip((reward, *others), ("tab:purple", "tab:red", "tab:orange"), strict=False):
            _line(axes[1], roots, _standardised(study, curve), colour, _TITLES[curve.measure])
        axes[1].set_xlabel("√(upper bound of KL)")
        axes[1].set_ylabel("gain over one sample, in s.d. of prompts")
        axes[1].set_title("what chooses and what judges", fontsize=9)
        axes[1].legend(fontsize=7)
    if lengths is not None:
        _line(axes[-1], study.steps, lengths.points, "tab:blue", "chosen")
        axes[-1].set_ylabel(_TITLES["tokens"])
        axes[-1].set_title("length of the chosen answer", fontsize=9)
        _by_n(axes[-1], study.steps)
    save(figure, path)


def _standardised(study: Study, curve: Curve) -> list[Estimate]:
    """A curve's gain over one sample, divided by the spread of that sample's value over prompts."""
    one = study.curve(curve.measure, "one sample")
    assert one is not None
    start = one.points[0].value
    spread = float(np.nanstd(one.values[:, 0])) or 1.0

    def scaled(value: float | None) -> float | None:
        return None if value is None else (value - start) / spread

    return [Estimate((p.value - start) / spread, scaled(p.low), scaled(p.high)) for p in curve.points]


def _line(axes: Any, across: Sequence[float], points: Sequence[Estimate], colour: str, label: str) -> None:
    axes.plot(across, [p.value for p in points], color=colour, marker="o", markersize=3, label=label)
    if all(p.low is not None for p in points):
        axes.fill_between(
            across, [p.low for p in points], [p.high for p in points], color=colour, alpha=0.12, linewidth=0
        )


def _by_n(axes: Any, steps: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(n) for n in steps])
    axes.set_xlabel("n, answers to choose from")


def write_prompts(path: Path, candidates: Sequence[Candidates], rewards: Sequence[Found] | None, study: Study) -> None:
    """A line for each prompt: its rewards, the chosen answer, and every curve's value at each n, so that the means can be checked.

    Args:
        path: the .jsonl file.
        candidates: of each prompt.
        rewards: by which answers were chosen.
        study: the curves.
    """
    row_of = {key: i for i, key in enumerate(study.prompts)}
    lines = []
    for place, own in enumerate(candidates):
        given = None if rewards is None else rewards[place]
        taken = None if given is None else best(given)
        i = row_of.get(own.key)
        values: dict[str, dict[str, list[float | None]]] = {}
        for curve in study.curves if i is not None else ():
            found = [None if math.isnan(value) else round(float(value), 6) for value in curve.values[i]]
            values.setdefault(curve.measure, {})[curve.rule] = found
        line = {
            "item": own.key, "chosen": taken, "text": None if taken is None else own.texts[taken], "rewards": given,
            "right": own.correct or None, "n": study.steps, "values": values,
        }  # fmt: skip
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))
