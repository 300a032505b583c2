"""What a fit says when it ends, and the predictions that `predict` writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from fulgurite.console import metrics_table, say, shortest
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
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    # A group without a validation row has no loss.
    shown = {n: v for n, v in values.items() if n.startswith(("val_", "train_")) and not (math.isnan(v) and "/" in n)}
    lines: list[object] = []
    if shown and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        lines.append(metrics_table(f"after step {trainer.global_step}", shown))
    keepers = [
        c
        for c in trainer.checkpoint_callbacks
        if isinstance(c, ModelCheckpoint) and (c.best_model_path or c.last_model_path)
    ]
    last = ""
    for keeper in keepers[:1]:
        last = keeper.last_model_path or keeper.best_model_path
        if keeper.monitor and keeper.best_model_score is not None:
            score = float(keeper.best_model_score)
            lines.append(f"best {keeper.monitor} {score:.4f} in {shortest(keeper.best_model_path)}")
    if last:
        root = shortest(trainer.default_root_dir)
        module = trainer.lightning_module
        # PEFT knows no reward head, and full tuning leaves no adapter.
        fits = getattr(getattr(module, "adapter", None), "fits_peft", False)
        peft = fits and not isinstance(module, RewardModule)
        lines += [
            f"checkpoints in {shortest(Path(last).parent)}, configuration in {root}/config.yaml",
            "next:",
            f"  fulgurite test --config {root}/config.yaml --ckpt_path {shortest(last)}",
        ]
        if getattr(trainer.lightning_module, "exports", True):
            lines.append(
                f"  fulgurite export --ckpt_path {shortest(last)} --out {root}/"
                + ("peft" if peft else "merged --format merged")
            )
    if lines:
        say(*lines)
