"""The callback that writes a run's `config.yaml` when training starts."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from fulgurite.commands.fit.lock import RunLock
from fulgurite.whole_files import whole_file

__all__ = ["RunConfig"]


class RunConfig(SaveConfigCallback):
    """Writes the configuration of a fit to <default_root_dir>/config.yaml, where `test --config` finds it, and holds the folder."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lock = RunLock()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the folder, and writes nothing yet: a fit that fails while it is set up must not replace a run's configuration.

        Args:
            trainer: the trainer
            pl_module: its module
            stage: fit, validate, test or predict
        """
        if stage == "fit" and trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self._lock.take(Path(trainer.default_root_dir))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets go of the folder.

        Args:
            trainer: the trainer
            pl_module: its module
            stage: fit, validate, test or predict
        """
        self._lock.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lets go of the folder.

        Args:
            trainer: the trainer
            pl_module: its module
            exception: what ended the run
        """
        self._lock.release()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file, whole or not at all.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        if not trainer.is_global_zero:
            return
        config = self.config.clone()
        config["ckpt_path"] = None  # where this fit was resumed from is no option of the next command
        # jsonargparse 4.49 renamed the option; an explicit null must not fall back to a default that is none.
        major, minor = (int(part) for part in version("jsonargparse").split(".")[:2])
        keep_null = "skip_unset" if (major, minor) >= (4, 49) else "skip_none"
        options = {keep_null: False, "overwrite": True, "multifile": False}
        with whole_file(Path(trainer.default_root_dir) / self.config_filename) as scratch:
            self.parser.save(config, str(scratch), **options)
