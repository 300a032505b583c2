"""What a fit says when it ends, and the predictions that `predict` writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from fulgurite.console import command_line, metrics_table, say, shortest
from fulgurite.lightning_modules import RewardModule
from fulgurite.whole_files import whole_file

__all__ = ["report_fit", "write_predictions"]


def write_predictions(batches: list[Any], names: list[str] | None, file: Path) -> int:
    """Writes rows of dicts of tensors (rows, ...) or lists of texts as lines of JSON; returns their number."""
    count = 0
    with whole_file(file) as scratch, open(scratch, "w", encoding="utf-8") as stream:
        for batch in batches:
            columns = {k: value if isinstance(value, list) else value.tolist() for k, value in batch.items()}
            for values in zip(*columns.values(), strict=True):
                row = dict(zip(columns, values, strict=True))
                index = row.get("prediction")
                if names and isinstance(index, int) and 0 <= index < len(names):
                    row["label"] = names[index]
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
    return count


@rank_zero_only
def report_fit(trainer: Trainer) -> None:
    """Prints a fit's last metrics, where its best checkpoint lies, and the commands that come next.

    Args:
        trainer: after the fit
    """
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    # A group without a validation row has no loss.
    shown = {n: v for n, v in values.items() if n.startswith(("val_", "train_")) and not (math.isnan(v) and "/" in n)}
    if "train_loss" in shown:
        shown["train_loss of the last batch"] = shown.pop("train_loss")
    lines: list[object] = [f"stopped early: {said}" for said in _early_stops(trainer)]
    if shown and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        lines.append(metrics_table(f"after step {trainer.global_step}", shown))
    keepers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    keeper = next((c for c in keepers if c.best_model_path or c.last_model_path), None)
    if keeper is not None:
        if keeper.monitor and keeper.best_model_score is not None:
            score = float(keeper.best_model_score)
            lines.append(f"best {keeper.monitor} {score:.4f} in {shortest(keeper.best_model_path)}")
        last = shortest(keeper.last_model_path or keeper.best_model_path)
        lines += [f"checkpoints in {Path(last).parent}, configuration in {_config(trainer)}", *_next(trainer, last)]
    if lines:
        say(*lines)


def _early_stops(trainer: Trainer) -> list[str]:
    """What EarlyStopping callbacks that ended the run give as their reason."""
    found = [callback for callback in trainer.early_stopping_callbacks if callback.stopping_reason_message]  # type: ignore[attr-defined]
    return [f"{callback.stopping_reason_message} (epoch {callback.stopped_epoch})" for callback in found]


def _config(trainer: Trainer) -> str:
    return shortest(Path(trainer.default_root_dir) / "config.yaml")


def _next(trainer: Trainer, last: str) -> list[str]:
    """The commands that come next: a test where there is a test split, and the export, or what a module has in its place."""
    module = trainer.lightning_module
    remote = bool(getattr(module, "trust_remote_code", False))
    commands = []
    if _has_test_split(trainer):
        words = ["test", "--config", _config(trainer), "--ckpt_path", last]
        commands.append(command_line(*words, *(["--model.trust_remote_code", "true"] if remote else [])))
    if getattr(module, "exports", True) and (form := _form(module)) is not None:
        out = shortest(Path(trainer.default_root_dir) / form)
        words = ["export", "--ckpt_path", last, "--out", out, *([] if form == "peft" else ["--format", form])]
        commands.append(command_line(*words, *(["--trust_remote_code", "true"] if remote else [])))
    elif (leave := getattr(module, "leaves_by", None)) is not None:
        commands.append(command_line(*leave(last, shortest(Path(trainer.default_root_dir) / "plugged"))))
    return ["next:", *(f"  {command}" for command in commands)] if commands else []


def _form(module: Any) -> str | None:
    """The format in which `fulgurite export` writes what was trained, the most useful first; None where there is none.

    PEFT knows no reward head, and full tuning leaves no adapter. An adapter upon another is one of the summed rank only if both
    are low-rank, which the earlier one's file would have to tell; the whole model always leaves, if the adapter can be merged.
    """
    adapter = getattr(module, "adapter", None)
    forms = ("merged",) if adapter is None else adapter.formats
    upon = getattr(module, "init_adapter", None) is not None
    order = ("merged", "peft") if upon else ("merged", "adapter") if isinstance(module, RewardModule) else None
    return next((form for form in order or ("peft", "merged", "adapter") if form in forms), None)


def _has_test_split(trainer: Trainer) -> bool:
    """Whether `fulgurite test` would find rows; a datamodule that does not tell is taken to have them."""
    ask = getattr(getattr(trainer, "datamodule", None), "has_test_split", None)
    return ask is None or bool(ask())
