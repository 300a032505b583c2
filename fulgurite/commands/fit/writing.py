"""Checkpoints that are whole on the disk or an error, in place of Lightning's writer, and what becomes of an older run's.

Lightning writes through the temporary folder, which is no rename where that lies on another file system, and says nothing if
the folder refuses the file: a fit then ends well without a checkpoint.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.plugins import CheckpointIO

from fulgurite.console import shortest
from fulgurite.whole_files import whole_file

__all__ = ["WholeCheckpoints", "earlier_run", "takes_checkpoints"]

_ADVICE = "free some space, or give --trainer.default_root_dir a folder that can be written"


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint under a temporary name beside its own, and renames it once it is on the disk.

    Args:
        after_first: what to do once the first checkpoint lies there, which is given: for a run that replaces another
    """

    def __init__(self, after_first: Callable[[Path], None] | None = None) -> None:
        self.after_first = after_first

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Args:
            checkpoint: its content
            path: the file, or an address of another store, which Lightning's own writer takes
            storage_options: none are allowed here, as in Lightning's writer

        Raises:
            OSError: the file cannot be written, in one sentence.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        with whole_file(file, f"the checkpoint {file.name}", _ADVICE) as scratch:
            torch.save(checkpoint, scratch)
            if not zipfile.is_zipfile(scratch):
                raise OSError(f"the checkpoint {shortest(file)} was not written whole; is the disk full? {_ADVICE}")
        after, self.after_first = self.after_first, None
        if after is not None:
            after(file)


def takes_checkpoints(options: dict[str, Any]) -> bool:
    """Whether a trainer of these options can have our writer: none of the user's own is among its plugins or in its strategy.

    Args:
        options: of the trainer
    """
    plugins = options.get("plugins") or []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    own = any(isinstance(plugin, CheckpointIO) for plugin in plugins)
    own = own or getattr(options.get("strategy"), "_checkpoint_io", None) is not None
    return not own and options.get("accelerator") != "tpu"


def earlier_run(folder: Path, resumed: str | None, overwrite: bool) -> list[Path]:
    """The checkpoints of an earlier run, which the new one removes as soon as it has one of its own; none for a resumption.

    Args:
        folder: where the checkpoints of this run are to lie
        resumed: the checkpoint that the run goes on with
        overwrite: whether an earlier run may be replaced

    Raises:
        FileExistsError: an earlier run lies there, and it may not be replaced.
    """
    found = sorted(folder.glob("*.ckpt"))
    if not found or (resumed is not None and Path(resumed).resolve().parent == folder.resolve()):
        return []
    if overwrite:
        return found
    raise FileExistsError(
        f"fit: {shortest(folder)} holds the checkpoints of an earlier run ({', '.join(file.name for file in found[:3])}), which "
        "would be replaced; give --ckpt_path last to go on with that run, --overwrite true to replace it, or another folder with "
        "--trainer.default_root_dir"
    )
