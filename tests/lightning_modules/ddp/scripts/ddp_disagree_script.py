"""Run by test_disagreements.py: two processes that see different things; CASE says which. Writes what each rank ends with."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
from fulgurite.adapters import LoRA
from fulgurite.datamodules import GLUEDataModule, PreferenceDataModule
from fulgurite.lightning_modules import APETModule, ClassificationModule, PreferenceModule
from tests.lightning_modules.ddp.processes import write

RANK = int(os.environ.get("LOCAL_RANK", "0"))


class Pushed(Callback):
    """Changes a gradient on one process only, after the gradients were added up."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        next(p for p in pl_module.parameters() if p.requires_grad).grad.add_(RANK)


def make(case: str, devices: int, out: Path) -> tuple[Any, Any, list[Callback]]:
    rows = GLUEDataModule("sst2", path="builtin", splits="train", limit_train=32, batch_size=4, max_length=32)
    if case == "weights":
        return ClassificationModule("playground", adapter=LoRA(rank=2)), rows, [Pushed()]
    if case == "positions":
        import fulgurite.lightning_modules.apet as apet

        scores = apet.fisher_scores
        apet.fisher_scores = lambda *args, **options: (
            (name, score.flip(0) if RANK else score) for name, score in scores(*args, **options)
        )
        return APETModule("playground", task="classification", budget=50, selection="gradient"), rows, []
    disk = out / f"disk{RANK if devices > 1 else 1}"
    pairs = PreferenceDataModule(path="builtin", limit_train=20, batch_size=2, max_length=128, cache_dir=str(disk))
    return PreferenceModule("playground", loss="dpo", adapter=LoRA(rank=2)), pairs, []


def trained(module: Any, data: Any, callbacks: list[Callback], out: Path, devices: int) -> None:
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=2, limit_val_batches=0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
        default_root_dir=out, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, data)


def main(devices: int, case: str, out: Path) -> None:
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    module, data, callbacks = make(case, devices, out)
    error = ""
    try:
        trained(module, data, callbacks, out, devices)
    except RuntimeError as caught:
        error = str(caught)
    adapter = module.adapter
    positions = {n: p.tolist() for n, p in adapter.positions.items()} if case == "positions" else {}
    write({"error": error, "positions": positions}, devices, out)
    os._exit(0)  # Lightning would end the other process before it has written


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
