"""Checkpoint files of a run: finding `last` and `best`, reading one, and making the module again that wrote it.

A checkpoint that is not there, a damaged file, and a module that is not one of ours are errors. They say what was looked for
and where, and name the newest whole checkpoint that lies beside.
"""

import importlib
import logging
import os
import pickle
import shlex
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fulgurite.lightning_modules import FinetuneModule

_POINTER = b"version https://git-lfs"

__all__ = ["check_weights", "find_checkpoint", "load_module", "read_checkpoint", "tell_other_template"]

_log = logging.getLogger(__name__)


def read_checkpoint(path: str | Path, mmap: bool = False) -> dict[str, Any]:
    """A checkpoint as a dict of plain values and tensors on the CPU; never runs code from the file.

    Args:
        path: the file
        mmap: leave the tensors in the file, for a look at the rest.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint {path}: no such file; give a .ckpt file that `fulgurite fit` wrote")
    import torch

    with open(path, "rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise ValueError(
                f"checkpoint {path}: it is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"
            )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        reason = "no file of tensors and plain values" if reason.startswith("Weights only load failed") else reason
        raise ValueError(
            f"checkpoint {path}: {os.path.getsize(path)} bytes that cannot be read ({reason}); the file is truncated "
            "or not a Lightning checkpoint; take an older one, or train again"
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"checkpoint {path}: it holds no state_dict; give a .ckpt file that `fulgurite fit` wrote")
    return content


def find_checkpoint(wanted: str, folder: str | Path, verb: str) -> str:
    """The file that `--ckpt_path` means: itself, or the last or best checkpoint of a folder.

    Args:
        wanted: last, best or a file
        folder: where this configuration keeps its checkpoints
        verb: the verb that asks, for the message
    """
    folder = Path(folder)
    if wanted not in ("last", "best"):
        if not Path(wanted).is_file():
            raise FileNotFoundError(
                f"{verb}: --ckpt_path {wanted}: no such file; give a file, or last or best, which look in {folder}"
            )
        return wanted
    lasts = sorted(folder.glob("last*.ckpt"), key=lambda file: file.stat().st_mtime)
    advice = _newest_whole(folder)
    if not lasts:
        there = sorted(file.name for file in folder.glob("*.ckpt")) if folder.is_dir() else []
        state = f"holds {', '.join(there[:4])}" if there else "holds no checkpoint"
        state = state if folder.is_dir() else "is not there"
        otherwise = (
            "train first with `fulgurite fit` and the same options, or give the file, or the run's folder as "
            "--trainer.default_root_dir"
        )
        raise FileNotFoundError(
            f"{verb}: --ckpt_path {wanted}: looked for last*.ckpt in {folder}, which {state}; {advice or otherwise}"
        )
    if not zipfile.is_zipfile(lasts[-1]):
        raise ValueError(
            f"{verb}: --ckpt_path {wanted}: {lasts[-1]} is damaged, {lasts[-1].stat().st_size} bytes that are no whole checkpoint; "
            f"{advice or 'there is no other checkpoint beside it; train again'}"
        )
    if wanted == "last":
        return str(lasts[-1])
    for state in read_checkpoint(lasts[-1]).get("callbacks", {}).values():
        best = state.get("best_model_path") if isinstance(state, dict) else None
        for candidate in (best, str(folder / Path(best).name)) if best else ():
            if Path(candidate).is_file():
                return candidate
    raise FileNotFoundError(
        f"{verb}: --ckpt_path best: {lasts[-1]} names no best checkpoint that is still in {folder}; use last or a file; "
        f"{advice}"
    )


def _newest_whole(folder: Path) -> str:
    """What to do where `last` or `best` cannot be had: the newest whole checkpoint of a folder; empty where there is none."""
    whole = [file for file in folder.glob("*.ckpt") if zipfile.is_zipfile(file)]
    if not whole:
        return ""
    newest = max(whole, key=lambda file: file.stat().st_mtime)
    return f"the newest whole checkpoint there is {newest.name}: give {shlex.join(['--ckpt_path', str(newest)])}"


def load_module(path: str | Path, trust_remote_code: bool = False, in_full: bool = False) -> "FinetuneModule":
    """The module that wrote a checkpoint, on the CPU, with its weights, in evaluation mode.

    Args:
        path: the checkpoint
        trust_remote_code: whether the backbone's own code may run; what the checkpoint says of it does not count
        in_full: load the base in full precision also where it was trained quantised while it was loaded
    """
    from fulgurite.lightning_modules import FinetuneModule
    from fulgurite.lightning_modules.checks.hyperparameters import overruled
    from fulgurite.lightning_modules.checks.named_classes import refuse_local_classes
    from fulgurite.models.weight_files import check_finite

    hyperparameters = read_checkpoint(path).get("hyper_parameters") or {}
    class_path = hyperparameters.get("_class_path")
    if not isinstance(class_path, str):
        raise ValueError(
            f"checkpoint {path}: its hyperparameters name no class, so that the module cannot be made here; it was written by a "
            "module of your own: load it there with load_from_checkpoint and use its .adapter"
        )
    refuse_local_classes(path, hyperparameters)
    module_name, _, class_name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"checkpoint {path}: its class {class_path} cannot be imported ({error}); run where that module is importable"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, FinetuneModule)):
        raise ValueError(f"checkpoint {path}: its class {class_path} is not a FinetuneModule; export knows only those")
    changed = overruled(path, hyperparameters, trust_remote_code)
    if in_full and hyperparameters.get("quantize") is not None:
        changed["quantize"] = None
    try:
        module = cls.load_from_checkpoint(path, map_location="cpu", **changed)
    except Exception as error:  # jsonargparse has a class of its own for what it cannot import
        named = [value.get("class_path") for value in hyperparameters.values() if isinstance(value, dict)]
        foreign = [name for name in named if isinstance(name, str) and not _importable(name)]
        if not foreign:
            raise
        raise ValueError(
            f"checkpoint {path}: its class {foreign[0]} cannot be imported here; run where that module is importable"
        ) from error
    _refuse_not_finite(path, check_finite(module))
    return module.eval()


def check_weights(path: str | Path, content: dict[str, Any]) -> None:
    """Refuse a checkpoint whose weights compute nothing of use.

    Args:
        path: the file, for the message.
        content: of :func:`read_checkpoint`.

    Raises:
        ValueError: a tensor of its weights holds NaN or infinity.
    """
    from fulgurite.models.weight_files import first_not_finite

    _refuse_not_finite(path, first_not_finite(content["state_dict"]))


def _refuse_not_finite(path: str | Path, name: str | None) -> None:
    if name is not None:
        raise ValueError(
            f"checkpoint {path}: {name} holds NaN or infinity, so that the model would compute nothing of use; take an earlier "
            "checkpoint, or train again with a lower learning rate"
        )


def _importable(class_path: str) -> bool:
    module_name, _, class_name = class_path.rpartition(".")
    try:
        return hasattr(importlib.import_module(module_name), class_name)
    except (ImportError, ValueError):
        return False


def tell_other_template(path: str, trained: str | None, laid: object) -> None:
    """Says that a checkpoint is served on another chat template than it was trained on.

    Args:
        path: of the checkpoint.
        trained: its template; None where it does not say.
        laid: the one that was asked for.
    """
    if trained is not None and trained != laid:
        _log.warning("%s was trained with another chat template than --template lays; its answers may differ", path)
