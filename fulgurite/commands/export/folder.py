"""What `fulgurite export` may write to: which folders it makes or replaces, and which it leaves alone."""

from pathlib import Path

from fulgurite.whole_files import clear_leftovers

__all__ = ["check_target", "refuse_around"]


def check_target(out: str, ckpt_path: str, overwrite: bool) -> Path:
    """The folder to make or to replace, after a look at what lies there and around it.

    Args:
        out: as it was typed.
        ckpt_path: what is exported into it.
        overwrite: whether an earlier export may be replaced.

    Raises:
        ValueError: no folder is named, or one that holds the current folder or the checkpoint.
        FileExistsError: something lies there that is not to be replaced.
    """
    if not out.strip():
        raise ValueError("export: --out is empty; give the folder to make")
    target = Path(out)
    if target.name in ("", ".."):
        target = target.resolve()
    real, here = target.resolve(), Path.cwd()
    if real == here or real in here.parents:
        raise ValueError(
            f"export: --out {out} is the current folder, or one around it, which cannot be replaced; give a folder in it"
        )
    refuse_around(target, ckpt_path, "checkpoint")
    clear_leftovers(target)
    if target.is_file():
        raise FileExistsError(f"export: --out {out} is a file, which is not replaced; give a folder")
    if target.exists() and not overwrite:
        raise FileExistsError(f"export: {out} is there already; give another --out, or --overwrite true to replace it")
    if target.is_dir() and any(target.iterdir()) and not _is_export(target):
        raise FileExistsError(
            f"export: {out} holds something other than an earlier export (no adapter_config.json, no adapter.json, no config.json "
            "with weights), which --overwrite does not replace; give another --out, or empty it yourself"
        )
    return target


def refuse_around(target: Path, needed: str | Path, what: str) -> None:
    """Raises a ValueError where replacing the target would delete what is exported.

    Args:
        target: the folder to make.
        needed: a file or folder; the name of a hub's model is neither, and passes.
        what: what it is, for the message.
    """
    place = Path(needed).resolve()
    if place.exists() and target.resolve() in (place, *place.parents):
        raise ValueError(
            f"export: --out {target} holds the {what}, {needed}, which would be deleted with it; give another --out"
        )


def _is_export(folder: Path) -> bool:
    merged = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return merged or any((folder / name).is_file() for name in ("adapter_config.json", "adapter.json"))
