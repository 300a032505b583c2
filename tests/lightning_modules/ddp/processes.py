"""Starting the scripts of `scripts/` on one or several processes, and what they have in common."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from tests.forking import Forked, popen


def alone(out: Path) -> dict[str, str]:
    """The environment of a run of its own: nothing that an earlier trainer of this process left behind, a cache in ``out``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FULGURITE_CACHE": str(out / "cache")}
    for variable in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(variable, None)
    return environment


def run_script(name: str, devices: int, out: Path, *words: str) -> list[dict[str, Any]]:
    """Runs ``scripts/name DEVICES [WORDS] OUT`` on so many processes; what each rank wrote.

    The processes are forked with Lightning's variables, as torchrun or SLURM would start them; that Lightning starts the second
    one itself is tried by test_a_process_that_is_only_stopped_ends_the_run_with_a_message.
    """
    command = [str(Path(__file__).parent / "scripts" / name), str(devices), *words, str(out)]
    running, said = started(command, devices, out)
    codes = _wait(running, 300)
    assert codes == [0] * devices, "\n".join(file.read_text() for file in said)
    return [json.loads((out / f"{devices}-{rank}.json").read_text()) for rank in range(devices)]


def started(command: list[str], devices: int, out: Path) -> tuple[list[Forked], list[Path]]:
    """So many processes of one program, and the file that each writes its outputs to."""
    said = [out / f"said-{devices}-{rank}.txt" for rank in range(devices)]
    running = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rank, file in enumerate(said):
        ranks = {
            "LOCAL_RANK": rank,
            "NODE_RANK": 0,
            "WORLD_SIZE": devices,
            "MASTER_PORT": port,
            "MASTER_ADDR": "127.0.0.1",
        }
        several = {key: str(value) for key, value in ranks.items()} if devices > 1 else {}
        with file.open("w") as stream:
            running.append(popen(command, {**alone(out), **several}, stdout=stream, stderr=stream))
    return running, said


def _wait(running: list[Forked], seconds: float) -> list[int | None]:
    """Exit codes of all; once one has failed the others have 30 seconds."""
    deadline = time.monotonic() + seconds
    while None in (codes := [each.poll() for each in running]) and time.monotonic() < deadline:
        if any(codes):
            deadline = min(deadline, time.monotonic() + 30)
        time.sleep(0.05)
    for each in running:
        each.kill()
    return codes


def fit(module: Any, data: Any, devices: int, out: Path, *callbacks: Any, **options: Any) -> tuple[Any, list[float]]:
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
        callbacks=[AdapterCheckpoint(), RandomState(), losses, *callbacks],
        default_root_dir=out,
        **{"accumulate_grad_batches": 2, **options},
    )
    trainer.fit(module, data)
    return trainer, losses.values


def validation_metrics(trainer: Any) -> dict[str, float]:
    """The last validation's."""
    return {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val_")}


def write(result: dict[str, Any], devices: int, out: Path) -> None:
    """This rank's part of what :func:`run_script` gives."""
    (out / f"{devices}-{os.environ.get('LOCAL_RANK', '0')}.json").write_text(json.dumps(result))
