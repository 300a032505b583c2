"""The callback that holds a run's folder, writes its `config.yaml`, and says how to go on after an interruption.

Configuration and checkpoints of a run bear its name, a random one: the first line of `config.yaml` and an entry of each
checkpoint. A run that replaces another one in its folder writes its configuration as `config.NAME.yaml` before it trains,
renames it to `config.yaml` once its first checkpoint lies there, and only then removes the older checkpoints. Wherever it is
killed, a file says which configuration belongs to which checkpoint, and a command that mixes them is refused.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
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

__all__ = ["RunConfig", "check_same_run"]

_RUN = "fulgurite_run"  # of a checkpoint: the name of its run
_FIRST_LINE = re.compile(r"# run ([0-9a-f]{16})\n?")
_STOPPED = (129, 143)  # exit codes of SIGHUP and SIGTERM (fulgurite.cli)
_WAITING = re.compile(r"config\.[0-9a-f]{16}\.yaml")


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
        self._run = secrets.token_hex(8)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the folder, and writes nothing yet: a fit that fails while it is set up must not replace a run's configuration.

        Args:
            trainer: the trainer
            pl_module: its module
            stage: fit, validate, test or predict
        """
        if stage == "fit" and trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self._lock.take(Path(trainer.default_root_dir))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A run that goes on keeps its name.

        Args:
            trainer: the trainer
            pl_module: its module
            checkpoint: what was saved
        """
        self._run = checkpoint.get(_RUN, self._run)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The checkpoint bears the run's name.

        Args:
            trainer: the trainer
            pl_module: its module
            checkpoint: what is saved
        """
        checkpoint[_RUN] = self._run

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets go of the folder.

        Args:
            trainer: the trainer
            pl_module: its module
            stage: fit, validate, test or predict
        """
        self._replaces_nothing(trainer)
        self._lock.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lets go of the folder; after Ctrl-C, SIGTERM and SIGHUP says how to go on.

        Args:
            trainer: the trainer
            pl_module: its module
            exception: what ended the run
        """
        self._replaces_nothing(trainer)
        self._lock.release()
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException) or (
            isinstance(exception, SystemExit) and exception.code in _STOPPED
        )
        if stopped and trainer.state.fn == TrainerFn.FITTING and trainer.is_global_zero:
            with contextlib.suppress(OSError):  # the terminal may be gone
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
            waiting = root / f"config.{self._run}.yaml"
            self._write(waiting)
            writer.after_first = lambda file: self._replace(root, waiting, file)
        else:
            self._write(root / self.config_filename)
            _remove_waiting(root)

    def _replace(self, root: Path, waiting: Path, checkpoint: Path) -> None:
        """What is left of the earlier run goes, now that this one can be gone on with."""
        waiting.replace(root / self.config_filename)
        for file in self._replaces:
            if file.resolve() != checkpoint.resolve():
                file.unlink(missing_ok=True)
        self._replaces = []
        _remove_waiting(root)

    def _replaces_nothing(self, trainer: Trainer) -> None:
        """A run that ends before its first checkpoint leaves the folder as it was."""
        if self._replaces and trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING:
            _remove_waiting(Path(trainer.default_root_dir))

    def _write(self, file: Path) -> None:
        config = self.config.clone()
        config["ckpt_path"] = None  # where this fit was resumed from is no option of the next command
        config.pop("overwrite", None)  # nor is what it may replace
        # jsonargparse 4.49 renamed the option; an explicit null must not fall back to a default that is none.
        major, minor = (int(part) for part in version("jsonargparse").split(".")[:2])
        keep_null = "skip_unset" if (major, minor) >= (4, 49) else "skip_none"
        options = {keep_null: False, "overwrite": True, "multifile": False}
        with whole_file(file) as scratch:
            self.parser.save(config, str(scratch), **options)
            scratch.write_text(f"# run {self._run}\n{scratch.read_text(encoding='utf-8')}", encoding="utf-8")

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


def check_same_run(checkpoint: Mapping[str, Any], path: str | Path, files: Iterable[str | Path], verb: str) -> None:
    """Refuses a checkpoint with the `config.yaml` of another run out of one folder.

    Args:
        checkpoint: its content
        path: the checkpoint
        files: the configuration files of the command
        verb: the verb, for the message

    Raises:
        ValueError: they bear the names of two runs.
    """
    run = checkpoint.get(_RUN)
    place = Path(path).resolve().parent
    for file in map(Path, files):
        if run is None or not file.is_file() or file.resolve().parent not in (place, place.parent):
            continue
        with file.open(encoding="utf-8", errors="replace") as stream:
            found = _FIRST_LINE.fullmatch(stream.readline())
        own = file.parent / f"config.{run}.yaml"
        if own.resolve() == file.resolve() or (not own.is_file() if found is None else found[1] == run):
            continue
        advice = (
            f"give its own configuration: {command_line(verb, '--config', shortest(own), '--ckpt_path', shortest(path))}"
            if own.is_file()
            else "give its options on the command line, or take a checkpoint of the run that the configuration is of"
        )
        raise ValueError(
            f"{verb}: {shortest(file)} is of another run than {shortest(path)}: a run that was to replace an earlier one in this "
            f"folder was stopped while it did; {advice}"
        )


def _remove_waiting(root: Path) -> None:
    """Removes the configurations of runs that were killed before they had a checkpoint."""
    for file in root.glob("config.*.yaml"):
        if _WAITING.fullmatch(file.name):
            file.unlink(missing_ok=True)
