"""What the full model, the emulator, the tuned emulator and the plugged-in model make of the same rows, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from torch import nn

from fulgurite.commands.emulate.measuring import measure
from fulgurite.commands.emulate.support import SupportRow
from fulgurite.evaluation.likelihood import ModelScorer
from fulgurite.evaluation.runner.statistics import Number, mean_of
from fulgurite.evaluation.tasks.task import Item, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Rows", "figures_of", "figures_table"]


@dataclass(frozen=True)
class Rows:
    """What is measured on.

    Attributes:
        rows: for the perplexity.
        task: whose metrics are taken; None for texts.
        items: of the task.
        tokenizer: of the full model.
        batch_size: rows at a time.
    """

    rows: Sequence[SupportRow]
    task: Task | None
    items: Sequence[Item]
    tokenizer: PreTrainedTokenizerBase
    batch_size: int


def figures_of(model: nn.Module, on: Rows) -> dict[str, Any]:
    """The perplexity as a number, and the task's metrics with their intervals.

    Args:
        model: a causal language model.
        on: the rows.
    """
    found: dict[str, Any] = {"perplexity": measure(model, on.rows, on.batch_size).perplexity}
    if on.task is None or on.task.metrics is None:
        return found
    scorer = ModelScorer(model, on.tokenizer, on.batch_size)
    asked = [(item.prompt, item.choices) for item in on.items]
    values: dict[str, list[float]] = {}
    for place, scores in scorer.score(asked, on.task.greedy):
        for name, value in on.task.metrics(on.items[place], scores.sums, scores.greedy).items():
            values.setdefault(name, []).append(value)
    return found | {name: mean_of(each).to_dict() for name, each in values.items()}


def figures_table(figures: dict[str, dict[str, Any]]) -> Table:
    """A line for each model.

    Args:
        figures: of :func:`figures_of` by what was measured.
    """
    table = Table(title="side by side", title_justify="left", title_style="bold")
    table.add_column("")
    names = list(next(iter(figures.values())))
    for name in names:
        table.add_column(name, justify="right")
    for what, row in figures.items():
        table.add_row(what, *(_shown(row[name]) for name in names))
    return table


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        number = Number(**value)
        return f"{100 * number.value:.1f} ({100 * number.low:.1f}–{100 * number.high:.1f})"
    return f"{value:,.2f}"
