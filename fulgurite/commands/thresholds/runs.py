"""The runs behind `fulgurite thresholds`: one training of one method at one budget with one seed, in processes of their own.

A finished run is a small JSON file, written under another name and renamed: an interrupted sweep goes on with the runs that are
missing. Each process takes its share of the machine's threads (of its GPUs, one process on each in turn).
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fulgurite.whole_files import write_text

__all__ = [
    "METHODS",
    "Run",
    "Settings",
    "adapter_for",
    "describe",
    "run_all",
    "run_file",
    "train",
    "train_and_score",
]

SELECTIONS = ("uniform_scalar", "tensor_greedy", "module_group", "per_module", "magnitude", "gradient")
METHODS = (*SELECTIONS, "lora", "bitfit", "bottleneck", "soft_prompt")
# Without a budget of their own: the whole network, the head alone (of a classification), nothing.
FULL, HEAD, UNTRAINED = "full", "head", "untrained"


@dataclass(frozen=True)
class Settings:
    """What all runs of a sweep share; see `fulgurite.commands.thresholds.command.thresholds` for the meaning."""

    task: str
    path: str
    task_type: str
    split: str
    epochs: int
    max_steps: int
    batch_size: int
    max_length: int
    max_answer_length: int
    limit_train: int | None
    limit_eval: int | None
    learning_rate: float
    head_learning_rate: float | None
    full_learning_rate: float
    lr_schedule: str
    weight_decay: float
    lora_targets: str
    dtype: str
    data_seed: int | None = None


@dataclass(frozen=True)
class Run:
    """One training: backbone, method (one of :data:`METHODS`, or full, head, untrained), budget (0 without one), seed."""

    backbone: str
    method: str
    budget: int
    seed: int

    @property
    def name(self) -> str:
        """A file name without ending."""
        backbone = re.sub(r"[^A-Za-z0-9]+", "_", self.backbone).strip("_")[-60:]
        return f"{backbone}-{self.method}-{self.budget}-{self.seed}"


def run_file(folder: Path, run: Run) -> Path:
    """Where a finished run lies."""
    return folder / "runs" / f"{run.name}.json"


def adapter_for(model: Any, run: Run, settings: Settings, heads: tuple[str, ...] = ()) -> Any:
    """The adapter's configuration at the run's budget, for the base `model`; None for full tuning.

    Raises:
        ValueError: the budget is below the method's smallest size, or above what is eligible.
    """
    from fulgurite.adapters import APET, BitFit, Bottleneck, LoRA, SoftPrompt, within_budget

    if run.method in SELECTIONS:
        return APET(budget=run.budget, selection=run.method, seed=run.seed)  # type: ignore[arg-type]
    start = {
        "lora": LoRA(rank=1, alpha=2.0, targets=settings.lora_targets),
        "bitfit": BitFit(seed=run.seed),
        "bottleneck": Bottleneck(),
        "soft_prompt": SoftPrompt(),
    }
    return within_budget(model, start[run.method], run.budget, heads)


def train(run: Run, settings: Settings, folder: str | None = None) -> tuple[Any, Any, float]:
    """Train one run.

    Args:
        run: what to train.
        settings: shared by the sweep.
        folder: of the backbone, where the run's own name for it is not one.

    Returns:
        The module, its datamodule, and the seconds that training took.
    """
    from lightning.pytorch import seed_everything

    from fulgurite.console import quiet_lightning
    from fulgurite.datamodules import PETTasksDataModule

    quiet_lightning()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    seed = run.seed if settings.data_seed is None else settings.data_seed
    seed_everything(seed, verbose=False)
    backbone = folder or run.backbone
    data = PETTasksDataModule(
        settings.task,
        path=settings.path,
        task_type=settings.task_type,  # type: ignore[arg-type]
        batch_size=settings.batch_size,
        max_length=settings.max_length,
        max_answer_length=settings.max_answer_length,
        limit_train=settings.limit_train,
        limit_eval=settings.limit_eval,
        tokenizer=backbone,
        seed=seed,
    )
    module = _module(run, settings, data.num_labels or None, backbone)
    begin = time.perf_counter()
    if run.method != UNTRAINED:
        trainer = _trainer(
            max_epochs=settings.epochs if settings.max_steps < 0 else -1,
            max_steps=settings.max_steps,
            limit_val_batches=0,
            gradient_clip_val=1.0,
        )
        trainer.fit(module, data)
    return module, data, time.perf_counter() - begin


def describe(run: Run, module: Any, seconds: float) -> dict[str, Any]:
    """The run, the parameters that its method tuned, those of a new head, and the seconds.

    Args:
        run: the run.
        module: its trained module.
        seconds: that training took.
    """
    trained = (
        sum(p.numel() for p in module.network.parameters() if p.requires_grad) if module.network is not None else 0
    )
    if module.adapter is not None:
        heads = sum(p.numel() for head in module.adapter.heads.values() for p in head.parameters())
        tunable = module.adapter.trainable_parameters() - heads
    else:
        heads, tunable = {HEAD: (trained, 0), UNTRAINED: (0, 0)}.get(run.method, (0, trained))
    return {**asdict(run), "tunable": tunable, "head": heads, "seconds": seconds}


def train_and_score(run: Run, settings: Settings) -> dict[str, Any]:
    """Train one run and score it; the result as JSON holds it: :func:`describe`, the main metric and all scores."""
    module, data, seconds = train(run, settings)
    module._trained = True  # the untrained model's score is asked for by name
    trainer, prefix = _trainer(), f"{settings.split}_"
    measure = trainer.test if settings.split == "test" else trainer.validate
    (scores,) = measure(module, data, verbose=False)
    return {
        **describe(run, module, seconds),
        "metric": data.metric_names[0],
        "value": float(scores[prefix + data.metric_names[0]]),
        "scores": {name.removeprefix(prefix): float(value) for name, value in scores.items()},
    }


def _trainer(**options: Any) -> Any:
    from lightning.pytorch import Trainer

    return Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        devices=1,
        **options,
    )


def _module(run: Run, settings: Settings, num_labels: int | None, backbone: str) -> Any:
    """The module of one run; its adapter is sized on the base itself."""
    from fulgurite.data.playground import resolve_backbone
    from fulgurite.lightning_modules import APETModule, ClassificationModule, SFTModule
    from fulgurite.models import load_backbone

    labels = num_labels if settings.task_type == "classification" else None
    common: dict[str, Any] = {
        "learning_rate": settings.full_learning_rate if run.method == FULL else settings.learning_rate,
        "lr_schedule": settings.lr_schedule,
        "weight_decay": settings.weight_decay,
        "dtype": settings.dtype,
    }
    if labels is not None:
        rate = None if run.method == FULL else settings.head_learning_rate
        common |= {"num_labels": labels, "head_learning_rate": rate}
    if run.method in SELECTIONS:
        return APETModule(
            backbone,
            task=settings.task_type,  # type: ignore[arg-type]
            budget=run.budget,
            selection=run.method,  # type: ignore[arg-type]
            seed=run.seed,
            **common,
        )
    adapter: Any = None
    heads: tuple[str, ...] = ()
    if run.method not in (FULL, UNTRAINED):
        loaded = load_backbone(resolve_backbone(backbone), settings.task_type, num_labels=labels)
        heads = loaded.new_heads
        if run.method != HEAD:
            adapter = adapter_for(loaded.model, run, settings, tuple(name.replace(".", r"\.") for name in heads))
    kind: Any = ClassificationModule if settings.task_type == "classification" else SFTModule
    task = {} if settings.task_type == "classification" else {"task": settings.task_type}
    module = kind(backbone, adapter=adapter, **task, **common)
    if run.method == HEAD:
        module.configure_model()
        module.network.requires_grad_(False)
        for name in heads:
            module.network.get_submodule(name).requires_grad_(True)
        module.learning_rate = settings.head_learning_rate or settings.learning_rate
    return module


def run_all(
    runs: Sequence[Run],
    settings: Settings,
    folder: Path,
    workers: int,
    work: Callable[[Run, Settings], dict[str, Any]] = train_and_score,
) -> Iterator[dict[str, Any]]:
    """The results of all runs as they come in, those that lie there already first.

    Args:
        runs: what to run.
        settings: shared by them.
        folder: where `runs/` is.
        workers: processes at a time; 1 runs in this one.
        work: what a run does; a function of a module, so that it travels to other processes.

    Raises:
        RuntimeError: runs whose loss was not finite; after all others.
    """
    missing = []
    for run in runs:
        found = _read(run_file(folder, run), run)
        if found is None:
            missing.append(run)
        else:
            yield found
    if not missing:
        return
    diverged: list[tuple[Run, FloatingPointError]] = []
    yield from (
        _here(missing, settings, folder, work, diverged)
        if workers == 1
        else _in_processes(missing, settings, folder, workers, work, diverged)
    )
    if diverged:
        run, error = diverged[0]
        raise RuntimeError(
            f"thresholds: {len(diverged)} of {len(runs)} runs diverged, the first is {run.name}: {error} The others are finished; "
            "take a lower learning rate and another --out, or leave those budgets out."
        )


def _here(
    runs: Sequence[Run], settings: Settings, folder: Path, work: Any, diverged: list[tuple[Run, FloatingPointError]]
) -> Iterator[dict[str, Any]]:
    for run in runs:
        try:
            result = _run_and_write(run, settings, folder, work)
        except FloatingPointError as error:
            diverged.append((run, error))
        else:
            yield result


def _in_processes(
    runs: Sequence[Run],
    settings: Settings,
    folder: Path,
    workers: int,
    work: Any,
    diverged: list[tuple[Run, FloatingPointError]],
) -> Iterator[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")  # forked threads of torch would hang
    threads = max(1, _cores() // workers)
    counter = context.Value("i", 0)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(threads, counter)) as pool:
        waiting = {pool.submit(_run_and_write, run, settings, folder, work): run for run in runs}
        try:
            for done in as_completed(waiting):
                error = done.exception()
                if isinstance(error, FloatingPointError):
                    diverged.append((waiting[done], error))
                else:
                    yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(threads: int, counter: Any) -> None:
    """In a new process: its share of the threads, and its GPU, before torch looks for one."""
    with counter.get_lock():
        index, counter.value = counter.value, counter.value + 1
    threading.Thread(target=_end_with_parent, daemon=True).start()
    visible = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    import torch

    count = len(visible) or (torch.cuda.device_count() if torch.backends.cuda.is_built() else 0)
    if count > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = (visible or [str(i) for i in range(count)])[index % count]
    torch.set_num_threads(threads)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_and_write(
    run: Run, settings: Settings, folder: Path, work: Callable[[Run, Settings], dict[str, Any]]
) -> dict[str, Any]:
    result = work(run, settings)
    write_text(run_file(folder, run), json.dumps(result) + "\n")
    return result


def _read(file: Path, run: Run) -> dict[str, Any] | None:
    """What a finished run left; None where there is nothing."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        other = [f"{k} {found[k]!r} instead of {v!r}" for k, v in asdict(run).items() if found[k] != v]
        if other:
            raise ValueError(f"it has {', '.join(other)}")
        found["metric"]
        return {**found, "value": float(found["value"]), "tunable": int(found["tunable"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"thresholds: {file} is no finished run ({error}); delete it to have it run again") from error


def _end_with_parent() -> None:
    """Leave when the sweep is killed, which closes no pool: the runs would train on for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
