"""Run by test_ddp.py: trains SoRA on DEVICES processes with a global batch of 8 and writes each rank's losses and gates."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from lightning.pytorch import seed_everything

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
from fulgurite.datamodules import GLUEDataModule
from fulgurite.lightning_modules import SoRAModule
from tests.lightning_modules.ddp.processes import fit, write


def main(devices: int, backbone: str, out: Path) -> None:
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    module = SoRAModule(
        backbone, rank=4, threshold=0.05, learning_rate=5e-3, patience=4, look_every=2, dropout=0.0, dtype="float32"
    )
    data = GLUEDataModule(
        "sst2", path="builtin", splits="train", limit_train=61, batch_size=8 // devices, max_length=32
    )
    trainer, losses = fit(module, data, devices, out, max_epochs=3, limit_val_batches=1.0)
    table = module.adapter.rank_table()
    result = {
        "losses": losses,
        "live": [row.live for row in table],
        "gates": [g.detach().tolist() for g in module.adapter.gates],
        "accuracy": float(trainer.callback_metrics["val_accuracy"]),
        "val_loss": float(trainer.callback_metrics["val_loss"]),
    }
    write(result, devices, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
