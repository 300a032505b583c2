"""`fulgurite thresholds`: how many tunable parameters a task takes, from guessing to the level of full tuning.

The sweep of APET (arXiv 2306.02320): a geometric series of budgets, several seeds of the random positions at each, and full
tuning, per backbone. It finds the low threshold (better than guessing) and the high one (as good as full tuning), prints
tables and draws the metric against the number of tunable parameters. Finished runs lie in OUT/runs and are not run again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from fulgurite.commands.shared.unused import refuse_unused
from fulgurite.commands.thresholds.processes import cores, run_all
from fulgurite.commands.thresholds.report import Curve, curves, draw, summary_table, table
from fulgurite.commands.thresholds.runs import (
    FULL,
    HEAD,
    METHODS,
    SELECTIONS,
    UNTRAINED,
    Run,
    Settings,
    adapter_for,
)
from fulgurite.console import say, shortest
from fulgurite.whole_files import write_text

__all__ = ["thresholds"]

_CPU_WORKERS = 4


def thresholds(
    out: str,
    backbones: list[str] | None = None,
    task: str = "sst2",
    path: str = "builtin",
    task_type: Literal["classification", "causal_lm", "seq2seq"] = "causal_lm",
    methods: list[str] | None = None,
    budgets: list[int] | None = None,
    ratio: int = 4,
    seeds: list[int] | None = None,
    data_seed: int | None = None,
    split: Literal["val", "test"] = "val",
    floor: Literal["majority", "guess", "untrained"] = "majority",
    tolerance: float = 0.01,
    full_tuning: bool = True,
    epochs: int = 3,
    max_steps: int = -1,
    batch_size: int = 16,
    max_length: int = 128,
    max_answer_length: int = 64,
    limit_train: int | None = None,
    limit_eval: int | None = None,
    learning_rate: float = 3e-3,
    head_learning_rate: float | None = None,
    full_learning_rate: float = 1e-3,
    lr_schedule: Literal["linear", "cosine", "constant"] = "constant",
    weight_decay: float = 0.0,
    lora_targets: str = "all-linear",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    workers: int | None = None,
) -> None:
    """Sweeps over budgets and seeds, and finds the low and the high threshold of tunable parameters.

    Args:
        out: folder of the finished runs, thresholds.json and thresholds.png; a sweep that was interrupted goes on there.
        backbones: hub ids, folders or playground names, one model size each (default: the playground's).
        task: one of the eleven tasks of PETTasksDataModule.
        path: where its rows are: "builtin", a file or folder, a hub id, or "" for the task's own hub id.
        task_type: "causal_lm" or "seq2seq" for text to text, which has no head beside the budget; or "classification".
        methods: uniform_scalar, tensor_greedy, module_group, per_module, magnitude, gradient; lora, bitfit, bottleneck or
            soft_prompt of at most the budget (default: uniform_scalar).
        budgets: numbers of tunable parameters (default: 1, ratio, ratio², … up to the whole backbone).
        ratio: factor between two default budgets.
        seeds: seeds of the positions, of the order of the rows, and of a new head (default: 0, 1 and 2).
        data_seed: seed of everything but the positions, so that only they differ between runs (default: each run's own).
        split: "val" or "test" rows are scored.
        floor: what the low threshold must exceed: "majority", the share of the commonest class; "guess", one over the classes;
            "untrained", the backbone's own score, which tasks without classes always take.
        tolerance: how far below full tuning counts as its level, in units of the metric.
        full_tuning: whether the whole backbone is trained too, which the high threshold needs.
        epochs: epochs of every run.
        max_steps: optimizer steps of every run, in place of epochs.
        batch_size: training rows per batch.
        max_length: tokens per row at most, those of an answer not counted.
        max_answer_length: tokens of an answer at most.
        limit_train: train on that many random rows only.
        limit_eval: score that many rows only.
        learning_rate: of every method but full tuning.
        head_learning_rate: of a new head (default: learning_rate).
        full_learning_rate: of full tuning.
        lr_schedule: decay after the warm-up; the paper's sweep has none.
        weight_decay: decoupled weight decay of matrices.
        lora_targets: layers of lora: "all-linear" or a regex; fewer layers fit smaller budgets.
        dtype: dtype of the base weights.
        workers: processes at a time (default: one per GPU, or one per two cores, four at most).
    """
    if Path(out).is_file():
        raise FileExistsError(f"thresholds: --out {out} is a file; give a folder")
    backbones, methods = [*dict.fromkeys(backbones or ["playground"])], [*dict.fromkeys(methods or ["uniform_scalar"])]
    seeds = seeds or [0, 1, 2]
    _check(methods, budgets, ratio, seeds, tolerance, workers, epochs, max_steps, data_seed)
    _refuse_idle(budgets, ratio, methods, lora_targets, task_type, head_learning_rate, max_answer_length, full_tuning,
                 full_learning_rate, epochs, max_steps)  # fmt: skip
    settings = Settings(
        task=task,
        path=path,
        task_type=task_type,
        split=split,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        max_length=max_length,
        max_answer_length=max_answer_length,
        limit_train=limit_train,
        limit_eval=limit_eval,
        learning_rate=learning_rate,
        head_learning_rate=head_learning_rate,
        full_learning_rate=full_learning_rate,
        lr_schedule=lr_schedule,
        weight_decay=weight_decay,
        lora_targets=lora_targets,
        dtype=dtype,
        data_seed=data_seed,
    )
    folder = Path(out)
    floors, labels = _floors(settings, floor, backbones, seeds)
    _same_settings(folder, settings)
    runs, sizes = _plan(settings, backbones, methods, budgets, ratio, seeds, full_tuning, labels)
    if any(value is None for value in floors.values()):
        runs = [*(Run(backbone, UNTRAINED, 0, seeds[0]) for backbone in backbones), *runs]
    _write(folder / "settings.json", asdict(settings))  # once nothing is left to refuse
    results = _with_progress(runs, settings, folder, workers or _workers())
    for backbone, value in floors.items():
        if value is None:
            floors[backbone] = next(
                r["value"] for r in results if (r["backbone"], r["method"]) == (backbone, UNTRAINED)
            )
    order = {run: place for place, run in enumerate(runs)}
    results.sort(key=lambda r: order[Run(r["backbone"], r["method"], r["budget"], r["seed"])])
    found = curves(results, sizes, {b: float(v or 0.0) for b, v in floors.items()}, tolerance)
    _report(found, results, settings, folder, tolerance)


def _check(
    methods: Sequence[str],
    budgets: Sequence[int] | None,
    ratio: int,
    seeds: Sequence[int],
    tolerance: float,
    workers: int | None,
    epochs: int,
    max_steps: int,
    data_seed: int | None,
) -> None:
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(
            f"thresholds: method {unknown[0]!r} was given; allowed are {', '.join(METHODS)}; choose of them"
        )
    rules = (
        (
            "budgets",
            budgets is None or (bool(budgets) and min(budgets) >= 1 and len(set(budgets)) == len(budgets)),
            budgets,
            "different numbers from 1",
        ),
        ("ratio", ratio >= 2, ratio, "2 and more"),
        (
            "seeds",
            len(set(seeds)) == len(seeds) and min(seeds) >= 0 and max(seeds) < 2**32,
            seeds,
            "different numbers from 0 to 4294967295",
        ),
        ("data_seed", data_seed is None or 0 <= data_seed < 2**32, data_seed, "0 to 4294967295"),
        ("tolerance", tolerance >= 0, tolerance, "0 and more"),
        ("workers", workers is None or workers >= 1, workers, "1 and more"),
        ("epochs", epochs >= 1 or max_steps >= 1, epochs, "1 and more"),
    )
    for name, fine, value, allowed in rules:
        if not fine:
            raise ValueError(f"thresholds: {name} {value} was given; allowed are {allowed}; correct it")


def _refuse_idle(
    budgets: Sequence[int] | None, ratio: int, methods: Sequence[str], lora_targets: str, task_type: str,
    head_learning_rate: float | None, max_answer_length: int, full_tuning: bool, full_learning_rate: float, epochs: int,
    max_steps: int,
) -> None:  # fmt: skip
    """Refuses options that would change nothing beside the others."""
    if budgets is not None:
        refuse_unused("thresholds", "with --budgets", ratio=(ratio, 4))
    if "lora" not in methods:
        refuse_unused("thresholds", "without the method lora", lora_targets=(lora_targets, "all-linear"))
    if task_type == "classification":
        refuse_unused("thresholds", f"with --task_type {task_type}", max_answer_length=(max_answer_length, 64))
    else:
        refuse_unused("thresholds", f"with --task_type {task_type}, which has no new head",
                      head_learning_rate=(head_learning_rate, None))  # fmt: skip
    if not full_tuning:
        refuse_unused("thresholds", "with --full_tuning false", full_learning_rate=(full_learning_rate, 1e-3))
    if max_steps > 0:
        refuse_unused("thresholds", "with --max_steps, which stands in place of epochs", epochs=(epochs, 3))


def _floors(
    settings: Settings, floor: str, backbones: Sequence[str], seeds: Sequence[int]
) -> tuple[dict[str, float | None], int]:
    """The floor of each backbone (None: its untrained score is to be measured), and the number of classes, 0 for none."""
    from fulgurite.data.tasks.pet import pet_task_named
    from fulgurite.datamodules import PETTasksDataModule

    labels = pet_task_named(settings.task).labels
    if not labels or floor == "untrained":
        if settings.task_type == "classification":
            raise ValueError(
                "thresholds: floor 'untrained' with task_type 'classification' would be that of a random head; take 'majority'"
            )
        return dict.fromkeys(backbones), len(labels)
    if floor == "guess":
        return dict.fromkeys(backbones, 1 / len(labels)), len(labels)
    data = PETTasksDataModule(settings.task, path=settings.path, tokenizer=backbones[0], limit_eval=settings.limit_eval)
    examples = data._read(settings.split)
    if examples is None or examples.labels is None:
        raise ValueError(f"thresholds: {settings.task} has no {settings.split} rows with labels in {settings.path!r}")
    counts = [examples.labels.count(index) for index in range(len(labels))]
    return dict.fromkeys(backbones, max(counts) / sum(counts)), len(labels)


def _plan(
    settings: Settings,
    backbones: Sequence[str],
    methods: Sequence[str],
    budgets: Sequence[int] | None,
    ratio: int,
    seeds: Sequence[int],
    full_tuning: bool,
    labels: int,
) -> tuple[list[Run], dict[str, int]]:
    """All runs, small budgets first, and the parameters of each backbone; budgets that a method cannot have are left out."""
    from fulgurite.adapters import eligible_scalars
    from fulgurite.data.playground import resolve_backbone
    from fulgurite.models import load_backbone

    runs: list[Run] = []
    sizes = {}
    refusals: list[str] = []
    for backbone in backbones:
        loaded = load_backbone(resolve_backbone(backbone), settings.task_type, num_labels=labels or None)
        heads = tuple(name.replace(".", r"\.") for name in loaded.new_heads)
        sizes[backbone] = sum(p.numel() for p in loaded.model.parameters())
        eligible = eligible_scalars(loaded.model, train=heads)
        wanted = budgets if budgets is not None else _geometric(eligible, ratio)
        if heads:
            runs += [Run(backbone, HEAD, 0, seed) for seed in seeds]
        for method in methods:
            refused: dict[int, str] = {}
            for budget in wanted:
                try:
                    _possible(loaded.model, Run(backbone, method, budget, seeds[0]), settings, heads, eligible)
                except ValueError as error:
                    refused[budget] = str(error)
                else:
                    runs += [Run(backbone, method, budget, seed) for seed in seeds]
            if refused:
                first = next(iter(refused.values()))
                refusals.append(f"{backbone}, {method}: left out {', '.join(f'{n:,}' for n in refused)}: {first}")
                say(refusals[-1])
        if full_tuning:
            runs += [Run(backbone, FULL, 0, seed) for seed in seeds]
    if refusals and not any(run.method in METHODS for run in runs):
        raise ValueError(f"thresholds: no budget is left ({refusals[0]}); give other --budgets, or other --methods")
    return runs, sizes


def _possible(model: Any, run: Run, settings: Settings, heads: tuple[str, ...], eligible: int) -> None:
    """Raises the ValueError that the run would raise."""
    if run.method in SELECTIONS and run.budget > eligible:
        raise ValueError(f"the budget is above the {eligible:,} eligible scalars")
    if run.method in ("tensor_greedy", "module_group"):
        from fulgurite.adapters import attach

        attach(model, adapter_for(model, run, settings), train=heads).detach()
    elif run.method not in SELECTIONS:
        adapter_for(model, run, settings, heads)


def _geometric(most: int, ratio: int) -> list[int]:
    found = [1]
    while found[-1] * ratio <= most:
        found.append(found[-1] * ratio)
    return found


def _same_settings(folder: Path, settings: Settings) -> None:
    """Refuses a folder whose finished runs had other settings; where none has finished, they had none."""
    file = folder / "settings.json"
    if not file.is_file() or not any((folder / "runs").glob("*.json")):
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError(f"it holds {type(before).__name__}, no object")
    except ValueError as error:
        raise ValueError(
            f"thresholds: {shortest(file)} does not tell the settings of the runs beside it ({error}); give another --out"
        ) from error
    differing = [f"{k} {before.get(k)!r} (now {v!r})" for k, v in asdict(settings).items() if before.get(k) != v]
    if differing:
        raise ValueError(
            f"thresholds: the runs in {shortest(folder)} had other settings: {', '.join(differing)}; give those, or another --out"
        )


def _with_progress(runs: Sequence[Run], settings: Settings, folder: Path, workers: int) -> list[dict[str, Any]]:
    from tqdm import tqdm

    results = []
    with tqdm(total=len(runs), desc=f"runs, {workers} at a time", unit="run") as bar:
        for result in run_all(runs, settings, folder, workers):
            results.append(result)
            bar.set_postfix_str(f"{result['method']} {result['budget']}: {result['value']:.3f}")
            bar.update()
    return results


def _workers() -> int:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return max(1, min(_CPU_WORKERS, cores() // 2))


def _report(
    found: list[Curve], results: list[dict[str, Any]], settings: Settings, folder: Path, tolerance: float
) -> None:
    metric = results[0]["metric"]
    content = {
        "settings": asdict(settings),
        "metric": metric,
        "tolerance": tolerance,
        "curves": [
            {
                **curve._asdict(),
                "points": [point._asdict() for point in curve.points],
                "head": None if curve.head is None else curve.head._asdict(),
                "full": None if curve.full is None else curve.full._asdict(),
            }
            for curve in found
        ],
    }
    _write(folder / "thresholds.json", content)
    picture = folder / "thresholds.png"
    draw(found, metric, picture)
    say(*(table(curve, metric) for curve in found), summary_table(found, metric), f"picture: {shortest(picture)}")


def _write(file: Path, content: dict[str, Any]) -> None:
    write_text(file, json.dumps(content, indent=1) + "\n")
