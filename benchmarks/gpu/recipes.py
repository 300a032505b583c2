"""The command line on a device for a few steps: ``python -m benchmarks.gpu.recipes --precision bf16-mixed --json FILE``.

Trains each recipe as a user would type it and notes its time and, on a GPU, each place at which the host waited for the device
(torch.cuda.set_sync_debug_mode), so that a new wait shows with file and line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from fulgurite.cli import main as fulgurite
from fulgurite.console import say
from fulgurite.whole_files import write_text

__all__ = ["RECIPES", "main"]

_ROOT = Path(__file__).resolve().parents[2]
# name -> configuration; the trainer's options of a short run are the same for all.
RECIPES = {
    "SoRA": "configs/quickstart.yaml",
    "SFT": "configs/sft_tiny_llama.yaml",
    "preferences": "configs/preference_tiny_llama.yaml",
    "MiniLM": "configs/sst2_minilm.yaml",
}
_SYNC_WARNING = "called a synchronizing CUDA operation"


def main(arguments: list[str] | None = None) -> int:
    """Train every recipe; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.recipes", description=__doc__)
    parser.add_argument("--precision", default="bf16-mixed", help="Lightning's --trainer.precision")
    parser.add_argument("--accelerator", default="gpu", choices=("cpu", "gpu"))
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of each recipe")
    parser.add_argument("--only", action="append", choices=RECIPES, help="one recipe; may be repeated")
    parser.add_argument("--scratch", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {"precision": options.precision, "steps": options.steps, "recipes": {}}
    for name in options.only or RECIPES:
        figures["recipes"][name] = _train(name, options)
        say(f"{name}: {figures['recipes'][name]}")
        write_text(options.json, json.dumps(figures, indent=1) + "\n")
    return int(any(row["status"] for row in figures["recipes"].values()))


def _train(name: str, options: argparse.Namespace) -> dict[str, Any]:
    words = ["fit", "--config", str(_ROOT / RECIPES[name]), "--trainer.default_root_dir", str(options.scratch / name)]
    settings = {
        "accelerator": options.accelerator, "devices": 1, "precision": options.precision, "max_steps": options.steps,
        "val_check_interval": options.steps, "limit_val_batches": 2, "num_sanity_val_steps": 0,
        "log_every_n_steps": options.steps, "enable_progress_bar": "false",
    }  # fmt: skip
    words += [word for key, value in settings.items() for word in (f"--trainer.{key}", str(value))]
    if name == "MiniLM":
        rows, weights = os.environ.get("FULGURITE_REAL_DATA"), os.environ.get("FULGURITE_MINILM")
        if rows is None or weights is None:
            return {"status": 0, "not_run": "needs what --packed brings: FULGURITE_REAL_DATA and FULGURITE_MINILM"}
        words += ["--data.path", str(Path(rows) / "glue"), "--model.backbone", weights]
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _watch(options.accelerator, "warn")
        try:
            status = fulgurite(words)
        except Exception:
            traceback.print_exc()
            status = 1
        finally:
            _watch(options.accelerator, "default")
    row: dict[str, Any] = {"status": status, "seconds": round(time.perf_counter() - started, 2)}
    waits = Counter(f"{w.filename}:{w.lineno}" for w in said if _SYNC_WARNING in str(w.message))
    return row | ({"waits": dict(waits.most_common())} if options.accelerator == "gpu" else {})


def _watch(accelerator: str, mode: str) -> None:
    """Have torch warn at each operation that makes the host wait for a GPU."""
    if accelerator == "gpu":
        import torch

        torch.cuda.set_sync_debug_mode(mode)


if __name__ == "__main__":
    sys.exit(main())
