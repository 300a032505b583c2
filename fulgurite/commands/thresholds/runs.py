"""One run of `fulgurite thresholds`: a training of one method at one budget with one seed, and its score."""

from __future__ import annotations

import logging
import re
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "METHODS",
    "Run",
    "Settings",
    "adapter_for",
    "describe",
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
