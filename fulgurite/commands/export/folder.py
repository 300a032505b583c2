"""What `fulgurite export`, `emulate` and `plug-in` may write to: which folders they make or replace, and which they leave alone."""

from pathlib import Path

from fulgurite.whole_files import clear_leftovers

__all__ = ["check_target", "refuse_around"]

_EXPORTED = "no adapter_config.json, no adapter.json, no config.json with weights"


def check_target(
    out: str, needed: str, overwrite: bool, verb: str = "export", what: str = "checkpoint", made: tuple[str, ...] = ()
) -> Path:
    """The folder to make or to replace, after a look at what lies there and around it.

    Args:
        out: as it was typed.
        needed: what it is made of.
        overwrite: whether a folder that was made earlier may be replaced.
        verb: that makes it, for messages.
        what: what `needed` is, for messages.
        made: files by one of which an earlier result is known; none takes those of an export.

    Raises:
        ValueError: no folder is named, or one that holds the current folder or what is needed.
        FileExistsError: something lies there that is not to be replaced.
    """
    if not out.strip():
        raise ValueError(f"{verb}: --out is empty; give the folder to make")
    target = Path(out)
    if target.name in ("", ".."):
        target = target.resolve()
    real, here = target.resolve(), Path.cwd()
    if real == here or real in here.parents:
        raise ValueError(
            f"{verb}: --out {out} is the current folder, or one around it, which cannot be replaced; give a folder in it"
        )
    refuse_around(target, needed, what, verb)
    clear_leftovers(target)
    if target.is_file():
        raise FileExistsError(f"{verb}: --out {out} is a file, which is not replaced; give a folder")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{verb}: {out} is there already; give another --out, or --overwrite true to replace it")
    earlier = any((target / name).is_file() for name in made) if made else _is_export(target)
    if target.is_dir() and any(target.iterdir()) and not earlier:
        marks = f"no {' and no '.join(made)}" if made else _EXPORTED
        raise FileExistsError(
            f"{verb}: {out} holds something other than an earlier {verb} ({marks}), which --overwrite does not replace; give "
            "another --out, or empty it yourself"
        )
    return target


def refuse_around(target: Path, needed: str | Path, what: str, verb: str = "export") -> None:
    """Raises a ValueError where replacing the target would delete what is needed.

    Args:
        target: the folder to make.
        needed: a file or folder; the name of a hub's model is neither, and passes.
        what: what it is, for the message.
        verb: that makes the target, for the message.
    """
    place = Path(needed).resolve()
    if place.exists() and target.resolve() in (place, *place.parents):
        raise ValueError(
            f"{verb}: --out {target} holds the {what}, {needed}, which would be deleted with it; give another --out"
        )


def _is_export(folder: Path) -> bool:
    merged = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return merged or any((folder / name).is_file() for name in ("adapter_config.json", "adapter.json"))
