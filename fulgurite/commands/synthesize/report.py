"""What `fulgurite synthesize` shows and leaves behind: tables of steps, costs and lengths, prompts of a dry run, a picture."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from fulgurite import __version__
from fulgurite.callbacks.picture import save
from fulgurite.synthesis.account import Account, Spent
from fulgurite.synthesis.desk import Dry
from fulgurite.synthesis.ledger import Ledger, StepCount
from fulgurite.synthesis.recipe import Recipe
from fulgurite.synthesis.running import Ran
from fulgurite.whole_files import write_text

__all__ = [
    "cost_table",
    "draw",
    "forecast_lines",
    "lengths_table",
    "prompts_shown",
    "steps_table",
    "write_results",
]

_SHOWN = 3  # places of a reason
_NO_TEXTS = (
    "id",
    "parent_id",
    "prompt_id",
    "models",
    "correct_answers",
    "incorrect_answers",
)  # columns without a length


def steps_table(ledger: Ledger) -> Table:
    """Rows kept, dropped and waiting at each step, with the reasons.

    Args:
        ledger: of a run.
    """
    table = Table(title="steps", title_justify="left", title_style="bold")
    for name in ("step", "rows", "kept", "dropped", "waiting", "why, and what was odd"):
        table.add_column(
            name, justify="left" if name in ("step", "why, and what was odd") else "right", overflow="fold"
        )
    for step in ledger.steps:
        table.add_row(
            step.name,
            str(step.rows),
            str(step.kept),
            str(sum(step.dropped.values()) or ""),
            str(sum(step.waiting.values()) or ""),
            "\n".join(_reasons(step)),
        )
    return table


def _reasons(step: StepCount) -> Iterator[str]:
    for fate, counts in (("dropped", step.dropped), ("waiting", step.waiting), ("", step.notes)):
        for reason, number in counts.most_common():
            places = "; ".join(step.first[reason][:_SHOWN])
            yield f"{number} {fate}{', ' if fate else ''}{reason} ({places[:160]}{'; …' if number > _SHOWN else ''})"


def cost_table(account: Account) -> Table:
    """Answers, tokens and money by step and model, of all runs in the folder.

    Args:
        account: of a run.
    """
    table = Table(title="costs", title_justify="left", title_style="bold")
    for name in ("step", "model", "answers", "tokens of prompts", "of answers", "money"):
        table.add_column(name, justify="left" if name in ("step", "model") else "right")
    for (step, model), spent in account.by.items():
        table.add_row(step, model, *_costs(spent))
    table.add_row("all", "", *_costs(account.spent))
    return table


def _costs(spent: Spent) -> list[str]:
    about = "≈ " if spent.estimated else ""
    return [f"{spent.requests:,}", f"{about}{spent.prompt:,}", f"{about}{spent.answer:,}", f"{spent.money:.4g}"]


def lengths_table(ledger: Ledger) -> Table:
    """Rows of each file with the lengths of their texts.

    Args:
        ledger: of a run.
    """
    table = Table(title="rows, and letters of their texts", title_justify="left", title_style="bold")
    for name in ("file", "rows", "column", "median", "longest"):
        table.add_column(name, justify="left" if name in ("file", "column") else "right")
    for name, lengths in _lengths(ledger).items():
        rows = len(ledger.tables[name].rows)
        for place, (column, (median, longest)) in enumerate(lengths.items()):
            table.add_row(*((name, f"{rows:,}") if place == 0 else ("", "")), column, f"{median:,}", f"{longest:,}")
        if not lengths:
            table.add_row(name, f"{rows:,}", "", "", "")
    return table


def _lengths(ledger: Ledger) -> dict[str, dict[str, tuple[int, int]]]:
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for name, table in ledger.tables.items():
        columns: dict[str, list[int]] = {}
        for row in table.rows:
            for column, value in row.items():
                if column not in _NO_TEXTS and (text := _text(value)) is not None:
                    columns.setdefault(column, []).append(len(text))
        found[name] = {column: (int(statistics.median(lengths)), max(lengths)) for column, lengths in columns.items()}
    return found


def _text(value: Any) -> str | None:
    """A text, or the texts of a list of turns or answers together."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return "".join(value)
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        texts = [
            str(part.get(name) or "") for part in value for name in ("value", "content", "response") if name in part
        ]
        return "".join(texts) if texts else None
    return None


def prompts_shown(dry: Dry) -> str:
    """The prompts of the first row of each step, each template once; what only an answer can tell is left open.

    Args:
        dry: of a dry run.
    """
    parts = []
    for step, asks in dry.asks.items():
        seen: set[tuple[str, ...]] = set()
        for one in asks:
            name = (one.part.rpartition("/")[2], one.model)
            if one.row != asks[0].row or name in seen or len(one.turns) > 2:
                continue
            seen.add(name)
            parts.append(f"--- {step}: {one.part}, asked of {one.model}, row {one.row}")
            parts += [f"[{turn.role}] {turn.content}" for turn in one.turns]
    return "\n".join(parts)


def forecast_lines(dry: Dry, rows: int, wanted: int) -> list[str]:
    """The most that a run may take: every retry, every turn, every answer at its full length.

    Args:
        dry: of a dry run.
        rows: that it was made with.
        wanted: rows of the run.
    """
    asks = sum(map(len, dry.asks.values()))
    return [
        f"at most, if every retry and turn is needed and every answer takes its whole length: {asks * wanted // rows:,} answers, "
        f"{dry.tokens * wanted // rows:,} tokens, {dry.money * wanted / rows:.4g} of money for {wanted} rows"
    ]


def write_results(recipe: Recipe, ran: Ran, folder: Path, seconds: float) -> None:
    """Writes results.json.

    Args:
        recipe: of the run.
        ran: the run.
        folder: its folder.
        seconds: that it took.
    """
    found = {
        "recipe": recipe.name,
        "steps": {step.name: step.to_dict() for step in ran.ledger.steps},
        "costs": {
            "all": ran.account.spent.to_dict(),
            "by step and model": {
                f"{step}, {model}": spent.to_dict() for (step, model), spent in ran.account.by.items()
            },
        },
        "files": {
            name: {"rows": len(ran.ledger.tables[name].rows), "file": file.name} for name, file in ran.files.items()
        },
        "letters": {
            name: {column: {"median": median, "longest": longest} for column, (median, longest) in lengths.items()}
            for name, lengths in _lengths(ran.ledger).items()
        },
        "waiting": ran.ledger.left,
        "stopped": ran.stopped,
        "versions": {"fulgurite": __version__},
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 1),
    }
    write_text(folder / "results.json", json.dumps(found, indent=2, ensure_ascii=False, default=str) + "\n")


def draw(ran: Ran, path: Path) -> None:
    """A picture: what became of the rows at each step, and tokens by step and model.

    Args:
        ran: the run.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    steps = ran.ledger.steps
    figure = Figure(figsize=(9.6, 1.2 + 0.4 * max(len(steps), len(ran.account.by))), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    names = [step.name for step in steps]
    begin = [0] * len(steps)
    for label, colour, values in (
        ("kept", "C2", [step.kept for step in steps]),
        ("dropped", "C3", [sum(step.dropped.values()) for step in steps]),
        ("waiting", "C7", [sum(step.waiting.values()) for step in steps]),
    ):
        left.barh(names, values, left=begin, color=colour, label=label)
        begin = [a + b for a, b in zip(begin, values, strict=True)]
    left.invert_yaxis()
    left.set_xlabel("rows")
    left.legend(fontsize=7)
    authors = [f"{step}, {model}" for step, model in ran.account.by]
    prompts = [spent.prompt for spent in ran.account.by.values()]
    answers = [spent.answer for spent in ran.account.by.values()]
    right.barh(authors, prompts, color="C0", label="prompts")
    right.barh(authors, answers, left=prompts, color="C1", label="answers")
    right.invert_yaxis()
    right.set_xlabel("tokens")
    if authors:
        right.legend(fontsize=7)
    save(figure, path)
