"""The checkpoint callback of the command line, which watches the main metric of whatever data is trained on."""

import os
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

__all__ = ["MetricCheckpoint"]


class MetricCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that watches the datamodule's main metric on the validation split, val_<name>.

    A fit that max_steps or max_time ends between two validations still leaves a last.ckpt of its final weights. Without a
    validation split, or with a datamodule that names no metric, it keeps the newest checkpoint.

    Args:
        dirpath: folder of the checkpoints
        save_last: whether last.ckpt is kept beside the best one
    """

    def __init__(self, dirpath: str, save_last: bool = True) -> None:
        # Without version numbers: last.ckpt is always the newest fit's, not last-v1.ckpt beside a stale last.ckpt.
        super().__init__(dirpath=dirpath, filename="{epoch}-{step}", save_last=save_last, enable_version_counter=False)
        self._saved_at = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Chooses the metric once the datamodule is set up and knows it.

        Args:
            trainer: the trainer
            pl_module: its module
            stage: fit, validate, test or predict
        """
        names = getattr(getattr(trainer, "datamodule", None), "metric_names", None) or ()
        names = names or getattr(pl_module, "metric_names", ())
        validates = getattr(trainer, "limit_val_batches", 1.0) != 0
        if self.monitor is None and names and validates:
            self.monitor = f"val_{names[0]}"
            self.mode = "min" if names[0] == "perplexity" else "max"
            self.kth_value = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)
        super().setup(trainer, pl_module, stage)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remembers which step is on disk.

        Args:
            trainer: the trainer
            pl_module: its module
            checkpoint: what is saved
        """
        self._saved_at = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, unless the metric to save by has never been computed: max_steps came before the first validation.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the final weights as last.ckpt if they are not on disk yet.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        super().on_train_end(trainer, pl_module)
        off = getattr(trainer, "fast_dev_run", False) or not self.save_last or self.dirpath is None
        if off or self._saved_at == trainer.global_step:
            return
        self.last_model_path = os.path.join(str(self.dirpath), f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}")
        trainer.save_checkpoint(self.last_model_path)
