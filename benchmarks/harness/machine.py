"""What figures were measured on: device, threads, versions, commit, load."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

__all__ = ["commit_of_the_checkout", "stamp"]

_PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "lightning",
    "peft",
    "trl",
    "unsloth",
    "liger-kernel",
    "flash-attn",
    "numpy",
)


def stamp(device: str) -> dict[str, Any]:
    """Date, device, threads, versions, commit and the machine's load before the run."""
    return {
        "date": datetime.date.today().isoformat(),
        "device": device,
        "device_name": torch.cuda.get_device_name() if device.startswith("cuda") else _cpu(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "commit": commit_of_the_checkout(),
        "load_before": os.getloadavg()[0],
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    abilities = torch.backends.cpu.get_cpu_capability()
    bf16 = ", AVX512_BF16" if any("avx512_bf16" in line for line in lines) else ""
    return f"{names[0] if names else platform.processor() or platform.machine()} ({abilities}{bf16})"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit_of_the_checkout() -> str:
    """Short hash of the checkout, ``+`` behind it if tracked files differ from it; $FULGURITE_COMMIT for a copy without git."""
    if "FULGURITE_COMMIT" in os.environ:
        return os.environ["FULGURITE_COMMIT"]
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--match="],
            cwd=here, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip()
