"""Run by test_ddp.py: trains SoRA on DEVICES processes with a global batch of 8 and writes each rank's losses and gates."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything

sys.path.insert(0, str(Path(__file__).parent))
from recording import Losses

from fulgurite.callbacks import AdapterCheckpoint, RandomState
from fulgurite.datamodules import GLUEDataModule
from fulgurite.lightning_modules import SoRAModule


def main(devices: int, backbone: str, out: Path) -> None:
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    module = SoRAModule(
        backbone, rank=4, threshold=0.05, learning_rate=5e-3, patience=4, look_every=2, dropout=0.0, dtype="float32"
    )
    data = GLUEDataModule(
        "sst2", path="builtin", splits="train", limit_train=61, batch_size=8 // devices, max_length=32
    )
    losses = Losses()
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="64-true",
        max_epochs=3,
        limit_val_batches=1.0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=2,
        callbacks=[AdapterCheckpoint(), RandomState(), losses],
        default_root_dir=out,
    )
    trainer.fit(module, data)
    table = module.adapter.rank_table()
    result = {
        "losses": losses.values,
        "live": [row.live for row in table],
        "gates": [g.detach().tolist() for g in module.adapter.gates],
        "accuracy": float(trainer.callback_metrics["val_accuracy"]),
        "val_loss": float(trainer.callback_metrics["val_loss"]),
    }
    (out / f"{devices}-{os.environ.get('LOCAL_RANK', '0')}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
