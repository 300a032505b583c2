"""Files and folders that appear whole or not at all: written under a temporary name in the same folder, then renamed.

The temporary name, `.NAME.HOST-PROCESS-NUMBER.part`, says who writes. The content reaches the disk (fsync) before the file
takes its name, so that neither a kill nor a power cut leaves half a file under it. An exception removes what was written so
far; what a killed process left is removed by the next one that writes the same name. Temporary files of other machines are
left alone, because nobody can tell from here whether their processes still run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = [
    "CACHE_ADVICE",
    "clear_leftovers",
    "scratch_folder",
    "whole_file",
    "whole_files",
    "whole_folder",
    "write_text",
]

_ADVICE = "free some space, or give a folder that can be written"
CACHE_ADVICE = "set cache_dir or $FULGURITE_CACHE to a folder that can be written"
_NUMBERS = itertools.count()
_OURS: set[str] = set()  # temporary names that this process holds at the moment
_OLD = "old"  # ending of a folder that is being replaced
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
# What safetensors and torch say instead of raising an OSError.
_SAFETENSORS = re.compile(r"I/O error: (.*) \(os error \d+\)")
_TORCH = re.compile(r"inline_container|PytorchStreamWriter|iostream error")


@contextlib.contextmanager
def whole_file(path: str | Path, what: str | None = None, advice: str = _ADVICE) -> Iterator[Path]:
    """The temporary name to write, in a block at whose end the file takes its place.

    Args:
        path: the file to make or to replace; its folder is made.
        what: what is written, for the message; None takes the file's name.
        advice: what to do where it cannot be written, for the message.

    Raises:
        OSError: the disk is full or the folder cannot be written, in one sentence; what stood there is unchanged.
    """
    path = Path(path)
    with whole_files(path.parent, [path.name], what or path.name, advice) as (scratch,):
        yield scratch


@contextlib.contextmanager
def whole_files(
    folder: str | Path, names: Sequence[str], what: str | None = None, advice: str = _ADVICE
) -> Iterator[list[Path]]:
    """The temporary names of several files of a folder, in a block at whose end all of them take their places.

    Args:
        folder: where the files are to lie; it is made.
        names: of the files.
        what: what is written, for the message; None takes the first name.
        advice: what to do where it cannot be written, for the message.

    Raises:
        OSError: as :func:`whole_file`.
    """
    folder = Path(folder)
    places = [folder / name for name in names]
    with _told(folder, what or names[0], advice), contextlib.ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        for place in places:
            clear_leftovers(place)
        scratches = [stack.enter_context(_held(place)) for place in places]
        yield scratches
        for scratch in scratches:
            _to_disk(scratch)
        for scratch, place in zip(scratches, places, strict=True):
            os.replace(scratch, place)
        _to_disk(folder)


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all.

    Args:
        path: the file to make or to replace.
        text: its content.

    Raises:
        OSError: as :func:`whole_file`.
    """
    with whole_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def scratch_folder(beside: str | Path, what: str | None = None, advice: str = _ADVICE) -> Iterator[Path]:
    """An empty folder beside a path, which is gone at the end of the block.

    Args:
        beside: the file or folder that is being made of what the scratch folder holds.
        what: what is written, for the message; None takes the name of `beside`.
        advice: what to do where it cannot be written, for the message.

    Raises:
        OSError: as :func:`whole_file`.
    """
    beside = Path(beside)
    with _told(beside.parent, what or beside.name, advice):
        beside.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(beside)
        with _held(beside) as scratch:
            scratch.mkdir()
            yield scratch


@contextlib.contextmanager
def whole_folder(target: str | Path) -> Iterator[Path]:
    """A folder to fill, in a block at whose end it takes the target's place; what stood there comes back if that fails.

    Args:
        target: the folder to make or to replace.

    Raises:
        OSError: as :func:`whole_file`.
    """
    target = Path(target)
    with scratch_folder(target) as scratch:
        yield scratch
        for file in [*sorted(scratch.rglob("*")), scratch]:
            _to_disk(file)
        if target.exists():
            _replace(scratch, target)
        else:
            scratch.replace(target)
        _to_disk(target.parent)


def clear_leftovers(path: str | Path) -> None:
    """Remove the temporary files and folders of processes that died while they wrote this path.

    A folder that was being replaced when its process died is put back, unless the new one has taken its place.

    Args:
        path: the file or folder that they were to become.
    """
    path = Path(path)
    start = f".{_short(path.name)}.{_machine()}-"
    form = re.compile(re.escape(start) + r"(\d+)-\d+\.(part|old)")
    with contextlib.suppress(OSError):  # a folder that cannot be read holds nothing that we could remove
        for name in os.listdir(path.parent):
            match = form.fullmatch(name)
            left = path.parent / name
            if match is None or str(left) in _OURS or _runs(int(match.group(1))):
                continue
            if match.group(2) == _OLD and not path.exists():
                left.replace(path)
            else:
                _remove(left)


def _replace(scratch: Path, target: Path) -> None:
    """Puts a folder in another's place."""
    with _held(target, _OLD) as aside:
        target.replace(aside)
        try:
            scratch.replace(target)
        except BaseException:
            aside.replace(target)
            raise


@contextlib.contextmanager
def _held(place: Path, ending: str = "part") -> Iterator[Path]:
    """A new temporary name for this place; whatever bears it at the end of the block is removed."""
    name = f".{_short(place.name)}.{_machine()}-{os.getpid()}-{next(_NUMBERS)}.{ending}"
    scratch = place.parent / name
    _OURS.add(str(scratch))
    try:
        yield scratch
    finally:
        _remove(scratch)
        _OURS.discard(str(scratch))


def _short(name: str) -> str:
    return name[:50]  # names may have 255 bytes, and a letter up to four


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _runs(process: int) -> bool:
    """Whether another process has this number; of our own number is only what :data:`_OURS` names."""
    if os.name != "posix":
        return True  # there a signal 0 is Ctrl-C
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Has the system write what it still holds of a file or of a folder's names."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that knows no such thing
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def _told(folder: Path, what: str, advice: str) -> Iterator[None]:
    """One sentence in place of an error of the disk or the folder; all other errors stay as they are."""
    try:
        yield
    except Exception as error:
        reason = _reason(error, folder)
        if reason is None:
            raise
        kind = type(error) if type(error).__module__ == "builtins" and isinstance(error, OSError) else OSError
        told = kind(f"{what} cannot be written to {folder} ({reason}); {advice}")
        told.errno = getattr(error, "errno", None)
        raise told from error


def _reason(error: Exception, folder: Path) -> str | None:
    """Why writing failed; None where the error is of something else, as of another file that the block reads."""
    if isinstance(error, OSError):
        if error.strerror is None or isinstance(error, FileNotFoundError):  # told already, or of what the block reads
            return None
        of_folder = isinstance(error.filename, str | os.PathLike) and _within(Path(error.filename), folder)
        return error.strerror if of_folder or error.errno in _DISK else None
    if match := _SAFETENSORS.search(str(error)):
        return match.group(1)
    return "torch could not write all of it; is the disk full?" if _TORCH.search(str(error)) else None


def _within(path: Path, folder: Path) -> bool:
    """Whether a path is the folder, lies in it, or is one of those around it that were to be made."""
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return path == folder or folder in path.parents or path in folder.parents
