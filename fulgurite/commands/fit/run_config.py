"""The callback that holds a run's folder, writes its `config.yaml`, and says how to go on after an interruption."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from fulgurite.commands.fit.lock import RunLock
from fulgurite.commands.fit.writing import WholeCheckpoints
from fulgurite.console import command_line, shortest
from fulgurite.whole_files import whole_file

__all__ = ["RunConfig"]


class RunConfig(SaveConfigCallback):
    """Writes the configuration of a fit to <default_root_dir>/config.yaml, where `test --config` finds it, and holds the folder.

    Args:
        arguments: as Lightning's callback takes them
        replaces: checkpoints of an earlier run in the folder; they and its configuration stay until this run has a checkpoint
        options: as Lightning's callback takes them
    """

    def __init__(self, *arguments: Any, replaces: Sequence[Path] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lock = RunLock()
        self._replaces = list(replaces)

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
        """Lets go of the folder; after Ctrl-C and SIGTERM says how to go on.

        Args:
            trainer: the trainer
            pl_module: its module
            exception: what ended the run
        """
        self._lock.release()
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if stopped and trainer.state.fn == TrainerFn.FITTING and trainer.is_global_zero:
            sys.stderr.write(f"fulgurite: stopped at step {trainer.global_step}; {self._go_on(trainer)}\n")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file, or has it written with the first checkpoint where it replaces that of an earlier run.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        if not trainer.is_global_zero:
            return
        root = Path(trainer.default_root_dir)
        writer = trainer.strategy.checkpoint_io
        if self._replaces and isinstance(writer, WholeCheckpoints):
            writer.after_first = lambda file: self._replace(root, file)
        else:
            self._write(root)

    def _replace(self, root: Path, checkpoint: Path) -> None:
        """What is left of the earlier run goes, now that this one can be gone on with."""
        self._write(root)
        for file in self._replaces:
            if file.resolve() != checkpoint.resolve():
                file.unlink(missing_ok=True)
        self._replaces = []

    def _write(self, root: Path) -> None:
        config = self.config.clone()
        config["ckpt_path"] = None  # where this fit was resumed from is no option of the next command
        config.pop("overwrite", None)  # nor is what it may replace
        # jsonargparse 4.49 renamed the option; an explicit null must not fall back to a default that is none.
        major, minor = (int(part) for part in version("jsonargparse").split(".")[:2])
        keep_null = "skip_unset" if (major, minor) >= (4, 49) else "skip_none"
        options = {keep_null: False, "overwrite": True, "multifile": False}
        with whole_file(root / self.config_filename) as scratch:
            self.parser.save(config, str(scratch), **options)

    def _go_on(self, trainer: Trainer) -> str:
        folders = {str(getattr(keeper, "dirpath", None) or "") for keeper in trainer.checkpoint_callbacks}
        files = {file for folder in folders if folder for file in Path(folder).glob("*.ckpt")} - set(self._replaces)
        if not files:
            return "this run has no checkpoint yet to go on with" + (
                "; the earlier run's are left" if self._replaces else ""
            )
        newest = max(files, key=lambda file: file.stat().st_mtime)
        config = shortest(Path(trainer.default_root_dir) / "config.yaml")
        words = command_line("fit", "--config", config, "--ckpt_path", shortest(newest))
        return f"go on with: {words}"
