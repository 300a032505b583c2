"""Runs the studies behind the tables of README and docs: ``python -m benchmarks.science [STUDY ...]``.

Each study trains on real rows (FULGURITE_REAL_DATA, or ../shared/data beside the checkout), writes its figures to
``benchmarks/results/<study>_<device>_<date>.json`` and its table and picture to ``docs/``.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.studies import (
    apet_sizes,
    apet_sst2,
    cpo_playground,
    half_precision,
    preference_trend,
    reward_study,
    sft_trl,
    sora_sst2,
    thresholds,
    ultrafuser_playground,
)
from benchmarks.studies.repair import playground as repair_playground
from fulgurite.whole_files import write_text

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
STUDIES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "thresholds": thresholds.run,
    "sora_sst2": sora_sst2.run,
    "sft_trl": sft_trl.run,
    "preference_trend": preference_trend.run,
    "apet_sst2": apet_sst2.run,
    "apet_sizes": apet_sizes.run,
    "ultrafuser_playground": ultrafuser_playground.run,
    "reward_study": reward_study.run,
    "cpo_playground": cpo_playground.run,
    "half_precision": half_precision.run,
    "repair_playground": repair_playground.run,
}
REPORTS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "thresholds": thresholds.report,
    "sora_sst2": sora_sst2.report,
    "sft_trl": sft_trl.report,
    "preference_trend": preference_trend.report,
    "apet_sst2": apet_sst2.report,
    "apet_sizes": apet_sizes.report,
    "ultrafuser_playground": ultrafuser_playground.report,
    "reward_study": reward_study.report,
    "cpo_playground": cpo_playground.report,
    "half_precision": half_precision.report,
    "repair_playground": repair_playground.report,
}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import lightning
    import transformers

    cpu = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{cpu}, threads: {torch.get_num_threads()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "transformers": transformers.__version__,
        **({"trl": version} if (version := _version("trl")) else {}),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def real_data() -> Path:
    """The folder of real rows; exits with a message if it is not there."""
    folder = Path(os.environ.get("FULGURITE_REAL_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        sys.exit(
            f"science needs real rows: set FULGURITE_REAL_DATA to a folder with glue/SST-2 in it (looked in {folder})"
        )
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Run the studies named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.science", description=__doc__)
    parser.add_argument("studies", nargs="*", help=f"out of {', '.join(STUDIES)}; default: all")
    parser.add_argument("--report", action="store_true", help="only make docs/ anew from the newest committed results")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.studies if name not in STUDIES]
    if unknown:
        parser.error(f"{unknown[0]!r} is no study; known are {', '.join(STUDIES)}")
    results = ROOT / "benchmarks" / "results"
    for name in options.studies or list(STUDIES):
        if options.report:
            path = max(results.glob(f"{name}_*.json"), key=lambda p: p.stem.rpartition("_")[2])
            REPORTS[name](json.loads(path.read_text()), ROOT / "docs")
            continue
        figures = {
            "study": name,
            "machine": machine(),
            "date": datetime.date.today().isoformat(),
            **STUDIES[name](real_data()),
        }
        device = "gpu" if torch.cuda.is_available() else "cpu"
        path = results / f"{name}_{device}_{figures['date']}.json"
        write_text(path, json.dumps(figures, indent=1) + "\n")
        REPORTS[name](figures, ROOT / "docs")
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
