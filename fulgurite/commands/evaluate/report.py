"""What `fulgurite evaluate` shows and leaves behind: the list of tasks, rendered prompts, a table, results.json, a picture."""

import json
import platform
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from rich.table import Table

from fulgurite import __version__
from fulgurite.callbacks.picture import panels, save
from fulgurite.data.encoding.prompts import encode_prompt
from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.runner.plan import Plan
from fulgurite.evaluation.runner.results import TaskResult
from fulgurite.evaluation.tasks import TASKS
from fulgurite.whole_files import write_text

__all__ = ["draw", "prompts_shown", "results_table", "tasks_table", "write_results"]

_PACKAGES = ("torch", "transformers", "math-verify", "openai")


def tasks_table() -> Table:
    """Every task with its summary and where its rows may come from."""
    table = Table(title="tasks", title_justify="left", title_style="bold")
    for name in ("task", "kind", "rows", "what it is"):
        table.add_column(name, overflow="fold")
    for name in sorted(TASKS):
        task = TASKS[name]
        rows = ["hub"] if task.hub is not None else []
        rows += ["builtin"] if task.builtin is not None else []
        table.add_row(name, task.kind, " ".join(["file", *rows]), task.summary)
    return table


def prompts_shown(plan: Plan, tokenizer: Any, count: int = 3) -> str:
    """The first prompts as the model gets them.

    Args:
        plan: the task.
        tokenizer: of a model in this process, whose special tokens are then visible; None for a server's.
        count: how many.
    """
    parts = [f"{plan.task.name}: {plan.task.summary}; {len(plan.items)} items of {plan.found.source}"]
    for item in plan.items[:count]:
        prompt = plan.prompt(item)
        parts.append(f"--- {plan.task.name} {item.key}\n{_rendered(prompt, None if item.choices else tokenizer)}")
        parts += [f"    choice: {choice!r}" for choice in item.choices]
        if not item.choices:
            parts.append(f"    stops at: {', '.join(map(repr, plan.settings.stop)) or 'the end token only'}")
        parts.append(f"    target: {json.dumps(item.target, ensure_ascii=False, default=str)[:300]}")
    return "\n".join(parts)


def _rendered(prompt: str | list[Turn], tokenizer: Any) -> str:
    turns = [Turn("prompt", prompt)] if isinstance(prompt, str) else prompt
    if tokenizer is not None:
        return str(tokenizer.decode(encode_prompt(tokenizer, turns)))
    return prompt if isinstance(prompt, str) else "\n".join(f"[{turn.role}] {turn.content}" for turn in turns)


def results_table(results: Sequence[TaskResult]) -> Table:
    """A line of each number.

    Args:
        results: of the tasks.
    """
    table = Table(title="results", title_justify="left", title_style="bold")
    for name, justify in (
        ("task", "left"),
        ("version", "right"),
        ("shots", "right"),
        ("metric", "left"),
        ("value", "right"),
        ("± s.e.", "right"),
        ("95 % interval", "right"),
        ("items", "right"),
        ("samples", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for result in results:
        lead = (result.task, str(result.version), str(result.shots))
        for metric, number in result.numbers.items():
            error = "" if number.error is None else f"{number.error:.4f}"
            interval = f"{number.low:.4f} to {number.high:.4f}"
            counts = (str(number.items), str(result.samples))
            table.add_row(*lead, metric, f"{number.value:.4f}", error, interval, *counts)
            lead = ("", "", "")
        if not result.numbers:
            table.add_row(*lead, "none", "", "", "", "0", str(result.samples))
    return table


class _Result(Protocol):
    """A task's outcome."""

    @property
    def task(self) -> str: ...

    def to_dict(self) -> dict[str, Any]: ...


def write_results(folder: Path, results: Sequence[_Result], options: Mapping[str, Any], seconds: float) -> None:
    """Writes results.json.

    Args:
        folder: the run's.
        results: of the tasks.
        options: of the command, for the record.
        seconds: that the run took.
    """
    found = {
        "results": {result.task: result.to_dict() for result in results},
        "options": dict(options),
        "versions": {"fulgurite": __version__, "python": platform.python_version(), **_versions()},
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 1),
    }
    write_text(folder / "results.json", json.dumps(found, indent=2, ensure_ascii=False, default=str) + "\n")


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def draw(results: Sequence[TaskResult], path: Path) -> None:
    """A picture: every task's numbers with their 95 % intervals.

    Args:
        results: of the tasks.
        path: the PNG to write.
    """
    bars = [(f"{r.task} {metric}", number) for r in results for metric, number in r.numbers.items()]
    if not bars:
        path.unlink(missing_ok=True)  # an earlier run's
        return
    figure, (axes,) = panels(1)
    figure.set_size_inches(6.4, 0.9 + 0.32 * len(bars))
    for place, (_, number) in enumerate(bars):
        span = [[number.value - number.low], [number.high - number.value]]
        axes.errorbar([number.value], [place], xerr=span, fmt="o", color="tab:blue", capsize=3)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=8)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("value and 95 % interval")
    save(figure, path)
