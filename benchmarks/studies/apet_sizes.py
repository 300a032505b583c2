"""Study: does size even out positions? Three playground bases of different width, tuned at random positions by APET.

The paper (arXiv 2306.02320) says that with larger models the positions of the trained parameters matter less. Here
only the seed of the positions differs between runs (rows, their order, the new head's first weights and all else are
the same): the standard deviation of the accuracy over position seeds is what positions do. It is pooled over tasks
and budgets per size, with its 95 % interval from the chi-square distribution.

The bases are pretrained as configs/playground_base.yaml does, on fewer documents, and kept in runs/science/apet_sizes
with all finished runs. Toy models on toy tasks: it shows how the question is asked, and what holds at this scale.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fulgurite.commands.thresholds.processes import run_all
from fulgurite.commands.thresholds.runs import Run, Settings, train_and_score

__all__ = ["report", "run"]

RUNS = Path(__file__).resolve().parents[2] / "runs" / "science" / "apet_sizes"
# Width of a base -> learning rate of its pretraining: at 3e-3 the widest ended behind the middle one.
WIDTHS = {48: 3e-3, 96: 2e-3, 192: 1e-3}
SHARE = float(os.environ.get("FULGURITE_STUDY_SHARE", "1"))  # of all rows: less to try the study out
DOCUMENTS = round(6144 * SHARE)


@dataclass(frozen=True)
class Task:
    """Rows and epochs of the tuning runs, and the learning rate of each cell (selection, budget)."""

    rows: int
    epochs: int
    cells: dict[tuple[str, int], float]


# The built-in tasks that these bases learn in a minute: tuned as a whole, they reached at most 49, 62, 71 and 58 % on mnli, qnli,
# qqp and mrpc. The fewer the scalars, the higher their rate (docs/apet_sst2.md). Larger budgets on imdb end at 99 to 100 %, where
# nothing is left to spread; smaller ones on sst2, and whole tensors of up to 16,384 scalars, stay at guessing.
TASKS = {
    "imdb": Task(
        192,
        3,
        {
            ("uniform_scalar", 16): 0.25,
            ("uniform_scalar", 64): 0.25,
            ("uniform_scalar", 256): 0.1,
            ("tensor_greedy", 256): 0.1,
            ("tensor_greedy", 1024): 0.1,
        },
    ),
    "rotten_tomatoes": Task(2000, 4, {("uniform_scalar", 4096): 1e-2, ("uniform_scalar", 16384): 5e-3}),
    "sst2": Task(2000, 4, {("uniform_scalar", 4096): 1e-2, ("uniform_scalar", 16384): 5e-3}),
}
METHODS = ("uniform_scalar", "tensor_greedy")
SEEDS = (0, 1, 2, 3, 4, 5)
WORKERS = int(os.environ.get("FULGURITE_WORKERS", "2"))


def pretrain(run: Run, options: Settings) -> dict[str, Any]:
    """One base of width `run.budget`, written to its folder as transformers has it."""
    from lightning.pytorch import Trainer, seed_everything
    from transformers import AutoConfig

    from fulgurite.data.encoding.tokenizers import load_tokenizer
    from fulgurite.data.playground import resolve_backbone
    from fulgurite.datamodules import FilesDataModule
    from fulgurite.lightning_modules import SFTModule

    width, folder = run.budget, Path(run.backbone)
    seed_everything(0, verbose=False)
    config = AutoConfig.from_pretrained(resolve_backbone("playground"))
    config.hidden_size, config.intermediate_size = width, 3 * width
    config.num_attention_heads = config.num_key_value_heads = 4
    config.head_dim = width // 4
    config.save_pretrained(folder)
    load_tokenizer("playground").save_pretrained(folder)
    module = SFTModule(str(folder), from_scratch=True, learning_rate=WIDTHS[width], weight_decay=0.1)
    data = FilesDataModule("builtin", task_type="causal_lm", documents=DOCUMENTS, val_fraction=0.02, batch_size=16)
    trainer = Trainer(
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        devices=1,
    )
    trainer.fit(module, data)
    assert module.network is not None
    module.network.save_pretrained(folder)  # type: ignore[operator]
    size = sum(p.numel() for p in module.network.parameters())
    loss = float(trainer.callback_metrics["val_loss"])
    return {"backbone": run.backbone, "method": "base", "budget": width, "seed": 0, "tunable": size, "value": loss}


def settings(task: str, cell: tuple[str, int] = ("full", 0)) -> Settings:
    """Those of a task, as classes: text to text, bases this small do not leave the level of guessing; the same for all sizes."""
    chosen = TASKS[task]
    return Settings(
        task=task,
        path="builtin",
        task_type="classification",
        split="val",
        epochs=chosen.epochs,
        max_steps=-1,
        batch_size=16,
        max_length=96,
        max_answer_length=8,
        limit_train=round(chosen.rows * SHARE),
        limit_eval=400,
        learning_rate=chosen.cells.get(cell, 0.1),
        head_learning_rate=1e-2,
        full_learning_rate=1e-3,
        lr_schedule="constant",
        weight_decay=0.0,
        lora_targets="all-linear",
        dtype="float32",
        data_seed=0,
    )


def run(real_data: Path) -> dict[str, Any]:
    """Pretrain the bases, then tune each at random positions. The real rows are not needed."""
    folder = RUNS / f"share{SHARE:g}"
    folders = {width: str(folder / f"base{width}") for width in WIDTHS}
    bases = [Run(path, "base", width, 0) for width, path in folders.items()]
    sizes = {r["budget"]: r for r in run_all(bases, settings("sst2"), folder / "bases", WORKERS, pretrain)}
    found: list[dict[str, Any]] = []
    for task, chosen in TASKS.items():
        for method, budget in (("full", 0), ("head", 0), *chosen.cells):
            seeds = SEEDS if budget else SEEDS[:1]
            runs = [Run(path, method, budget, seed) for path in folders.values() for seed in seeds]
            place = folder / f"{task}-{method}-{budget}"
            found += _told(run_all(runs, settings(task, (method, budget)), place, WORKERS, train_and_score), task)
    for item in found:
        item["width"] = next(w for w, path in folders.items() if path == item["backbone"])
        item["backbone"] = Path(item["backbone"]).name
    bases_told = [{"width": w, "parameters": sizes[w]["tunable"], "val_loss": sizes[w]["value"]} for w in WIDTHS]
    return {"share": SHARE, "documents": DOCUMENTS, "bases": bases_told, "runs": found}


def _told(results: Iterable[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    found = []
    for result in results:
        found.append({**result, "task": task})
        shown = {key: found[-1][key] for key in ("task", "method", "budget", "seed", "tunable", "value", "seconds")}
        print(Path(result["backbone"]).name, json.dumps(shown), flush=True)
    return found


def pooled(figures: dict[str, Any], width: int, method: str, task: str | None = None) -> tuple[float, float, float]:
    """Standard deviation over position seeds in points of accuracy, pooled over the cells, and its 95 % interval."""
    cells: dict[tuple[str, int], list[float]] = {}
    for item in figures["runs"]:
        if item["width"] == width and item["method"] == method and task in (None, item["task"]):
            cells.setdefault((item["task"], item["budget"]), []).append(100 * item["value"])
    freedom = sum(len(values) - 1 for values in cells.values())
    squares = sum((len(values) - 1) * float(np.var(values, ddof=1)) for values in cells.values())
    draws = np.random.default_rng(0).chisquare(freedom, 200_000)
    low, high = squares / np.quantile(draws, 0.975), squares / np.quantile(draws, 0.025)
    return (squares / freedom) ** 0.5, low**0.5, high**0.5


def report(figures: dict[str, Any], docs: Path) -> None:
    """Write docs/apet_sizes.md and docs/apet_sizes.png."""
    names = {"uniform_scalar": "random scalars", "tensor_greedy": "random whole tensors"}
    lines = [
        "| base | parameters | task | method | budget | accuracy, % (mean over position seeds, ± s.d.) | head alone, % "
        "| full tuning, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for base in figures["bases"]:
        mine = [r for r in figures["runs"] if r["width"] == base["width"]]
        for task in TASKS:
            full = next(100 * r["value"] for r in mine if r["task"] == task and r["method"] == "full")
            head = next(100 * r["value"] for r in mine if r["task"] == task and r["method"] == "head")
            for method, budget in TASKS[task].cells:
                cell = (task, method, budget)
                values = [100 * r["value"] for r in mine if (r["task"], r["method"], r["budget"]) == cell]
                lines.append(
                    f"| {base['width']} wide | {base['parameters']:,} | {task} | {names[method]} | {budget:,} "
                    f"| {np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} | {head:.1f} | {full:.1f} |"
                )
    spread = ["| base | parameters | " + " | ".join(names[m] for m in METHODS) + " |", "|---|---|---|---|"]
    for base in figures["bases"]:
        parts = ["{:.2f} [{:.2f}, {:.2f}]".format(*pooled(figures, base["width"], method)) for method in METHODS]
        spread.append(f"| {base['width']} wide | {base['parameters']:,} | {' | '.join(parts)} |")
    by_task = ["| base | " + " | ".join(TASKS) + " |", "|---" * (1 + len(TASKS)) + "|"]
    for base in figures["bases"]:
        parts = [
            "{:.2f} [{:.2f}, {:.2f}]".format(*pooled(figures, base["width"], METHODS[0], task=task)) for task in TASKS
        ]
        by_task.append(f"| {base['width']} wide | {' | '.join(parts)} |")
    machine = figures["machine"]
    losses = ", ".join(f"{base['val_loss']:.2f}" for base in figures["bases"])
    rows = ", ".join(f"{name} {round(task.rows * figures['share']):,}" for name, task in TASKS.items())
    text = [
        "# Does size even out positions?",
        "",
        "APET's paper finds that the larger the model, the less it matters where the trained parameters lie. Three playground "
        f"bases were pretrained on the same {figures['documents']:,} documents (validation loss {losses}) and tuned on three "
        f"built-in tasks ({rows} rows), with a head that starts from the same weights and {len(SEEDS)} seeds of the positions. "
        "Nothing else differs between the runs of a cell. On the other built-in classification tasks that were tried (mnli, "
        "qnli, qqp, mrpc) bases this small, tuned as a whole, get little beyond guessing.",
        "",
        "Standard deviation of the accuracy over position seeds, in points, pooled over tasks and budgets [95 % interval]; whole "
        "tensors on imdb only:",
        "",
        *spread,
        "",
        "Random scalars, task by task:",
        "",
        *by_task,
        "",
        "![spread over position seeds by size](apet_sizes.png)",
        "",
        "All cells:",
        "",
        *lines,
        "",
        "Whole tensors miss the budget from below by different amounts, which is part of their spread. Toy models on toy tasks: "
        f"the table says what holds at this scale. Machine: {machine['device']}; torch {machine['torch']}, {figures['date']}. "
        "Made by `make science` (`python -m benchmarks.science apet_sizes`), which writes this page.",
        "",
    ]
    (docs / "apet_sizes.md").write_text("\n".join(text), encoding="utf-8")
    _picture(figures, names, docs / "apet_sizes.png")


def _picture(figures: dict[str, Any], names: dict[str, str], path: Path) -> None:
    from matplotlib.figure import Figure

    from fulgurite.callbacks.picture import save

    figure = Figure(figsize=(6.2, 3.8), layout="constrained", dpi=150)
    axes = figure.subplots()
    sizes = np.array([base["parameters"] for base in figures["bases"]])
    for place, method in enumerate(METHODS):
        found = np.array([pooled(figures, base["width"], method) for base in figures["bases"]])
        below, above = found[:, 0] - found[:, 1], found[:, 2] - found[:, 0]
        axes.errorbar(
            sizes * (1 + 0.04 * place), found[:, 0], [below, above], marker="o", capsize=3, label=names[method]
        )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("parameters of the base")
    axes.set_ylabel("s.d. over position seeds, points")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path)
