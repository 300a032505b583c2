"""`fulgurite evaluate --until_passes r`: PassUntil's draws, its table, counts for `fulgurite scaling`, and a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from torch import nn

from fulgurite.callbacks.picture import save
from fulgurite.evaluation.pass_until.counts import Count, table_of
from fulgurite.evaluation.pass_until.datasets import Score, scores
from fulgurite.evaluation.pass_until.drawing import Drawn
from fulgurite.evaluation.pass_until.estimators import interval, unbiased
from fulgurite.evaluation.pass_until.reading import COLUMNS
from fulgurite.evaluation.runner.plan import Plan
from fulgurite.whole_files import write_text

__all__ = ["UntilResult", "draw", "rates_table", "result_of", "size_of", "write_counts"]


@dataclass(frozen=True)
class UntilResult:
    """The outcome of one task.

    Attributes:
        plan: the task.
        drawn: its draws.
        counts: of each item that is done.
        score: of the task; None where no item is done.
        size: parameters without embeddings; None where they are not known.
        warnings: whole sentences.
    """

    plan: Plan
    drawn: Drawn
    counts: list[Count]
    score: Score | None
    size: float | None
    warnings: list[str]

    @property
    def task(self) -> str:
        """Its name."""
        return self.plan.task.name

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "task": self.task,
            "source": self.plan.found.source,
            "version": self.plan.task.version,
            "shots": self.plan.shots,
            "until_passes": self.drawn.until.passes,
            "cap": self.drawn.until.cap,
            "states": self.drawn.states(),
            "score": None if self.score is None else {**self.score.to_dict(), "size": self.size},
            "items": [
                {
                    "item": each.item,
                    **dict(zip(("n", "c", "reached"), each.counts(self.drawn.until), strict=True)),
                    **{name: getattr(each, name) for name in ("drawn", "tokens", "truncated", "empty", "seconds")},
                }
                for each in self.drawn.items
            ],
            "warnings": self.warnings,
            "identity": self.drawn.identity,
            "judge": self.drawn.judge,
        }


def result_of(plan: Plan, drawn: Drawn, model: str, size: float | None) -> UntilResult:
    """The score of a task from its draws; items that are still open have no part in it.

    Args:
        plan: the task.
        drawn: its draws.
        model: its name, for the counts.
        size: parameters without embeddings; None where they are not known.
    """
    until = drawn.until
    settings = json.dumps(
        {key: value for key, value in drawn.identity.items() if key not in ("writer", "judge")}, sort_keys=True
    )
    grader = json.dumps(drawn.judge, sort_keys=True)
    counts = [
        Count(model, size or 0.0, each.item, n, c, until.passes, until.cap, settings=settings, grader=grader)
        for each in drawn.items
        if not each.open(until)
        for n, c, _ in [each.counts(until)]
    ]
    states, warnings = drawn.states(), list(drawn.troubles)
    if states["open"]:
        warnings.append(
            f"{states['open']} items are not done and have no part in the score; run the same command again"
        )
    if plan.found.bad:
        warnings.append(f"{len(plan.found.bad)} broken rows were left out, the first: {plan.found.bad[0]}")
    if not plan.settings.plain:
        warnings.append(
            "the draws are not the model's own distribution (temperature, top_p, top_k or a penalty): the rates are those of these "
            "settings, which have to be the same for all models of a series"
        )
    drawn_in_all = sum(each.drawn for each in drawn.items)
    cut = sum(each.truncated for each in drawn.items)
    if cut > 0.05 * drawn_in_all:
        warnings.append(f"{cut} of {drawn_in_all} answers were cut off and count as not passed: raise max_new_tokens")
    score = None
    if counts:
        # The law's table wants a positive size; a score does not depend on it.
        score = scores(table_of([Count(**{**vars(each), "size": size or 1.0}) for each in counts]))[0]
    return UntilResult(plan, drawn, counts, score, size, warnings)


def rates_table(results: Sequence[UntilResult]) -> Table:
    """A line of each task.

    Args:
        results: of the tasks.
    """
    until = results[0].drawn.until
    shown = Table(
        title=f"pass rates, draws until {until.passes} passes or {until.cap:,}",
        title_justify="left",
        title_style="bold",
    )
    for name in ("task", "items", "resolved", "at the cap", "open", "draws", "draws/s", "mean of instances, PU",
                 "± by draws", "± by task", "95 % by draws", "mean of logs"):  # fmt: skip
        shown.add_column(name, justify="left" if name == "task" else "right")
    for result in results:
        states, score = result.drawn.states(), result.score
        made = sum(each.drawn for each in result.drawn.items)
        speed = f"{result.drawn.new / result.drawn.seconds:.1f}" if result.drawn.new else ""
        lead = [
            result.task,
            str(len(result.drawn.items)),
            str(states["resolved"]),
            str(states["censored"]),
            str(states["open"]),
        ]
        lead += [f"{made:,}", speed]
        if score is None:
            shown.add_row(*lead, "none", "", "", "", "")
            continue
        shown.add_row(
            *lead,
            f"{score.pu:.4g}",
            f"{score.measurement_error:.2g}",
            "" if np.isnan(score.task_error) else f"{score.task_error:.2g}",
            f"{score.low:.3g} to {score.high:.3g}",
            "" if score.mean_log is None else f"{score.mean_log:.3f} ({score.log_instances} items)",
        )
    return shown


def write_counts(result: UntilResult) -> Path:
    """Writes OUT/TASK/counts.csv, which `fulgurite scaling` takes; the size is empty where it is not known.

    Args:
        result: of a task.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in result.counts:
        row: Mapping[str, Any] = {**vars(each), "size": int(each.size) or ""}
        writer.writerow(["" if row.get(name) is None else row.get(name) for name in COLUMNS])
    path = result.plan.folder / "counts.csv"
    write_text(path, text.getvalue())
    return path


def size_of(model: nn.Module) -> float | None:
    """Parameters without embeddings and head, the size that the law goes by, of the base without adapters; None if not known.

    Args:
        model: of transformers, with or without adapters.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            bare: Any = AutoModelForCausalLM.from_config(getattr(model, "config", None), trust_remote_code=False)
    except (AttributeError, ValueError):  # no configuration, or none of a causal model that transformers has
        return None
    around = [layer for layer in (bare.get_input_embeddings(), bare.get_output_embeddings()) if layer is not None]
    left_out = {id(p) for layer in around for p in layer.parameters()}
    return float(sum(p.numel() for p in bare.parameters() if id(p) not in left_out))


def draw(results: Sequence[UntilResult], path: Path) -> None:
    """A picture: the pass rate of each item that is done, in order, with its interval; arrows are upper limits.

    Args:
        results: of the tasks.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2 * len(results)), layout="constrained", dpi=110)
    for place, result in enumerate(results):
        axes = figure.add_subplot(len(results), 1, place + 1)
        axes.set_title(f"{result.task}: {result.score.pu:.3g}" if result.score else result.task, fontsize=9)
        if not result.counts:
            continue
        n, c, r = (np.array([getattr(each, name) for each in result.counts]) for name in ("n", "c", "r"))
        rates = unbiased(n, c, r)
        low, high = interval(n, c, r)
        order = np.argsort(np.where(rates > 0, rates, high * 1e-6))[::-1]
        x = np.arange(len(order))
        rates, low, high = rates[order], low[order], high[order]
        seen = rates > 0
        axes.errorbar(
            x[seen],
            rates[seen],
            [np.maximum(rates - low, 0)[seen], np.maximum(high - rates, 0)[seen]],
            fmt="o",
            markersize=3,
        )
        axes.plot(x[~seen], high[~seen], "v", markersize=4, color="C7", label="no pass: upper limit")
        axes.set_yscale("log")
        axes.set_xlabel("items by rate")
        axes.set_ylabel("pass rate, 95 %")
        axes.grid(alpha=0.3)
        if (~seen).any():
            axes.legend(fontsize=8)
    save(figure, path)
