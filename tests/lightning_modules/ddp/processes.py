"""Starting the scripts `ddp_*.py` on one or two processes, and what they have in common."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def alone(out: Path) -> dict[str, str]:
    """The environment of a run of its own: nothing that an earlier trainer of this process left behind, a cache in ``out``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FULGURITE_CACHE": str(out / "cache")}
    for variable in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(variable, None)
    return environment


def run_script(name: str, devices: int, out: Path, *words: str) -> list[dict[str, Any]]:
    """Runs ``name DEVICES [WORDS] OUT`` beside this file; what each rank wrote."""
    command = [sys.executable, str(Path(__file__).with_name(name)), str(devices), *words, str(out)]
    done = subprocess.run(command, env=alone(out), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((out / f"{devices}-{rank}.json").read_text()) for rank in range(devices)]


def fit(module: Any, data: Any, devices: int, out: Path, **options: Any) -> tuple[Any, list[float]]:
    """Trains in float64 on so many processes; the trainer, and this rank's losses."""
    from lightning.pytorch import Trainer

    from fulgurite.callbacks import AdapterCheckpoint, RandomState
    from tests.lightning_modules.recording import Losses

    losses = Losses()
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="64-true",
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=2,
        callbacks=[AdapterCheckpoint(), RandomState(), losses],
        default_root_dir=out,
        **options,
    )
    trainer.fit(module, data)
    return trainer, losses.values


def validation_metrics(trainer: Any) -> dict[str, float]:
    """The last validation's."""
    return {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val_")}


def write(result: dict[str, Any], devices: int, out: Path) -> None:
    """This rank's part of what :func:`run_script` gives."""
    (out / f"{devices}-{os.environ.get('LOCAL_RANK', '0')}.json").write_text(json.dumps(result))
