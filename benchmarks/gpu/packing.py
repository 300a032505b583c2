"""What a machine with a GPU and no network may lack, in one folder that git ignores: wheels, rows and MiniLM.

``python -m benchmarks.gpu --pack .gpu`` makes it where there is a network, ``--packed .gpu`` uses it. Wheels are those of
constraints.txt for Python 3.12 on x86-64 Linux, without their needs: what PyTorch, transformers and Lightning bring is there.
MiniLM's weights are rounded to bfloat16, which halves the file: good for a trial of speed and wiring, not for accuracy.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.harness.machine import commit_of_the_checkout
from fulgurite.whole_files import whole_folder, write_text

__all__ = ["LIMIT", "WHEELS", "environment_of", "install", "pack", "pinned"]

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60 * 2**20  # bytes
# Of what fulgurite and its peers need, what an image for GPU work was seen to lack (2026-11-17).
WHEELS = (
    "datasets",
    "dill",
    "multiprocess",
    "jsonargparse",
    "docstring_parser",
    "typeshed_client",
    "trl",
    "liger-kernel",
)
# Rows below the folder of real rows that recipes train on.
ROWS = ("glue/SST-2", "sft/alpaca")
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
Fetch = Callable[[Sequence[str], Path], None]


def pack(folder: Path, rows: Path | None, minilm: Path | None, fetch: Fetch | None = None) -> int:
    """Fill the folder anew; its size in bytes.

    Args:
        folder: ignored by git, replaced as a whole.
        rows: the folder of real rows; None leaves them out.
        minilm: folder of the model; None leaves it out.
        fetch: (requirements, folder) downloads wheels; None takes pip.

    Raises:
        ValueError: git would take the folder into a commit, or it would be larger than :data:`LIMIT`.
    """
    if not _ignored(folder):
        raise ValueError(f"benchmarks.gpu: git does not ignore {folder}; name an ignored folder, such as .gpu")
    with whole_folder(folder) as scratch:
        (fetch or _download)([f"{name}=={pinned(name)}" for name in WHEELS], scratch / "wheels")
        for name in ROWS if rows is not None else ():
            assert rows is not None
            if (rows / name).is_dir():
                shutil.copytree(rows / name, scratch / "rows" / name)
        if minilm is not None:
            _halved(minilm, scratch / "minilm")
        write_text(scratch / "commit", commit_of_the_checkout() + "\n")
        size = sum(file.stat().st_size for file in scratch.rglob("*") if file.is_file())
        if size > LIMIT:
            parts = ", ".join(f"{part.name} {_size(part) / 2**20:.1f}" for part in sorted(scratch.iterdir()))
            raise ValueError(
                f"benchmarks.gpu: the pack would take {size / 2**20:.1f} MiB ({parts}), allowed are {LIMIT >> 20}; leave out "
                "wheels or rows (WHEELS and ROWS in benchmarks/gpu/packing.py)"
            )
    return size


def install(folder: Path, target: Path) -> None:
    """Install the pack's wheels into ``target``, without a network.

    Raises:
        FileNotFoundError: the folder holds no wheels.
        RuntimeError: pip failed.
    """
    wheels = sorted((folder / "wheels").glob("*.whl"))
    if not wheels:
        raise FileNotFoundError(
            f"benchmarks.gpu: {folder} holds no wheels; make it with --pack where there is a network"
        )
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--target",
        str(target),
    ]
    done = subprocess.run([*command, *map(str, wheels)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"benchmarks.gpu: pip could not install the wheels of {folder}: {done.stderr.strip()[-500:]}"
        )


def environment_of(folder: Path, site: Path) -> dict[str, str]:
    """The variables by which pieces find what was packed."""
    commit = folder / "commit"
    found = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}
    for name, part in (("FULGURITE_REAL_DATA", "rows"), ("FULGURITE_MINILM", "minilm")):
        if (folder / part).is_dir():
            found[name] = str((folder / part).resolve())
    if commit.is_file() and "FULGURITE_COMMIT" not in os.environ:
        found["FULGURITE_COMMIT"] = commit.read_text(encoding="utf-8").strip()
    return found


def pinned(name: str, constraints: Path = ROOT / "constraints.txt") -> str:
    """The version of a package in constraints.txt.

    Raises:
        ValueError: it is not pinned there.
    """
    text = constraints.read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(name)}==([^\s;]+)", text, re.MULTILINE | re.IGNORECASE)
    if found is None:
        raise ValueError(f"benchmarks.gpu: {constraints.name} does not pin {name}; add a line {name}==VERSION")
    return found[1]


def _download(requirements: Sequence[str], folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command += ["--python-version", "3.12", "--implementation", "cp"]
    command += [word for platform in _PLATFORMS for word in ("--platform", platform)]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"benchmarks.gpu: pip could not download the wheels: {done.stderr.strip()[-500:]}")


def _halved(source: Path, target: Path) -> None:
    """A copy of a model's folder whose float32 tensors are bfloat16."""
    import torch
    from safetensors.torch import load_file, save_file

    target.mkdir(parents=True)
    for file in source.rglob("*"):
        place = target / file.relative_to(source)
        if file.is_dir():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix != ".safetensors":
            shutil.copyfile(file, place)
            continue
        halved = {n: t.bfloat16() if t.dtype == torch.float32 else t for n, t in load_file(file).items()}
        save_file(halved, place, metadata={"format": "pt"})


def _ignored(folder: Path) -> bool:
    """Whether git leaves the folder alone: it is ignored, or lies outside of the checkout."""
    if not folder.resolve().is_relative_to(ROOT):
        return True
    # A file in it: patterns for folders do not match a folder that is not there yet.
    asked = subprocess.run(["git", "check-ignore", "-q", str(folder.resolve() / "file")], cwd=ROOT, capture_output=True)
    return asked.returncode == 0


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else sum(f.stat().st_size for f in part.rglob("*") if f.is_file())
