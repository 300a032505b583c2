"""The page and the picture of the study of repairs on the playground, from its figures alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["write_page"]

_COLOURS = {"intervenor": "C0", "self_repair": "C1", "step_by_step": "C2", "sampling, equal programs": "C3"}


def write_page(figures: dict[str, Any], about: str, docs: Path) -> None:
    """docs/repair_playground.md with its tables, and docs/repair_playground.png.

    Args:
        figures: of the study's run, with machine and date.
        about: what was done, in paragraphs.
        docs: the folder.
    """
    settings, rows = figures["settings"], figures["rows"]
    turns = settings["turns"]
    lines = [
        "# Repairs on the playground",
        "",
        *about.strip().splitlines(),
        "",
        f"Tasks: {settings['tasks']['training']} for training, {settings['tasks']['held out']} held out. Rows: "
        f"{rows['writing']} of writing, {rows['made']} of made chains, "
        f"{', '.join(map(str, rows['own chains, by seed']))} of chains of its own (by seed). Steps: "
        f"{settings['steps']['before']} before, {settings['steps']['after']} after. Every rate has "
        f"{settings['trials of each rate']} trials ({len(settings['seeds'])} seeds). Machine: "
        f"{figures['machine']['device']}; torch {figures['machine']['torch']}; {figures['date']}. Command: "
        "`python -m benchmarks.science repair_playground`.",
    ]
    for mode in next(iter(figures["models"].values())):
        lines += ["", f"## Feedback {mode}", ""]
        heads = ["model", "method", *(f"turn {turn}" for turn in range(turns)), f"turn {turns} (95 %)", "by seed"]
        heads += ["ours − it (95 %)", "programs", "tokens"]
        lines += [f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * (len(heads) - 2)]
        for model, modes in figures["models"].items():
            for name, method in modes[mode]["methods"].items():
                lines.append(_row(model, name, method, turns))
    lines += ["", "## Repaired, by the first error", "", "| feedback | model | first error | chains | repaired |"]
    lines.append("|---|---|---|---:|---:|")
    for model, modes in figures["models"].items():
        for mode, found in modes.items():
            for kind, (chains, fixed) in found["first errors"].items():
                lines.append(f"| {mode} | {model} | {kind} | {chains} | {fixed} |")
    lines += ["", "![Solved after each turn, by model and feedback](repair_playground.png)"]
    (docs / "repair_playground.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _picture(figures["models"], turns, docs / "repair_playground.png")


def _row(model: str, name: str, method: dict[str, Any], turns: int) -> str:
    *before, last = method["solved"]
    cells = [f"{number['value']:.3f}" for number in before] + [""] * (turns - len(before))
    apart = method["ours minus it"]
    cells += [
        _interval(last, ""),
        " ".join(f"{value:.2f}" for value in method["by seed"]),
        "" if apart is None else _interval(apart, "+"),
        str(method["programs"]),
        f"{method['tokens']:,}",
    ]
    return f"| {model} | {name} | {' | '.join(cells)} |"


def _interval(number: dict[str, Any], sign: str) -> str:
    return f"{number['value']:{sign}.3f} ({number['low']:{sign}.3f} to {number['high']:{sign}.3f})"


def _picture(models: dict[str, Any], turns: int, path: Path) -> None:
    from matplotlib.figure import Figure

    from fulgurite.callbacks.picture import save

    modes = list(next(iter(models.values())))
    figure = Figure(figsize=(3.4 * len(models), 2.6 * len(modes)), layout="constrained", dpi=110)
    grid = figure.subplots(len(modes), len(models), squeeze=False, sharey=True)
    for across, mode in zip(grid, modes, strict=True):
        for axes, (model, found) in zip(across, models.items(), strict=True):
            for number, (name, colour) in enumerate(_COLOURS.items()):
                if (method := found[mode]["methods"].get(name)) is None:
                    continue
                x = [turn + 0.06 * number for turn in range(turns + 1)]  # aside, so that no interval hides another
                y = [point["value"] for point in method["solved"]]
                low = [point["value"] - point["low"] for point in method["solved"]]
                high = [point["high"] - point["value"] for point in method["solved"]]
                axes.errorbar(x, y, [low, high], marker="o", markersize=3, capsize=2, color=colour, label=name)
            axes.set_title(f"{model}, feedback {mode}", fontsize=9)
            axes.set_xticks(range(turns + 1))
            axes.set_ylim(-0.02, 1.02)
            axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("turn (sampling: further programs)", fontsize=8)
    for across in grid:
        across[0].set_ylabel("solved, 95 %", fontsize=8)
    grid[0][0].legend(fontsize=6)
    save(figure, path)
