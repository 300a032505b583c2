"""Run by test_preference.py: LOSS on trees with LoRA on DEVICES processes, a global batch of 4 packs; writes each rank's losses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything

sys.path.insert(0, str(Path(__file__).parent))
from recording import Losses

from fulgurite.adapters import LoRA
from fulgurite.callbacks import AdapterCheckpoint, RandomState
from fulgurite.datamodules import PreferenceDataModule
from fulgurite.lightning_modules import PreferenceModule


def main(devices: int, loss: str, out: Path) -> None:
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    module = PreferenceModule("playground", loss=loss, adapter=LoRA(rank=4, alpha=8), learning_rate=5e-3)
    kind = "labels" if loss == "kto" else "pairs"
    data = PreferenceDataModule(
        path="builtin", limit_train=70, batch_size=4 // devices, max_length=128, objective_kind=kind
    )
    losses = Losses()
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="64-true",
        max_epochs=2,
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
    result = {
        "losses": losses.values,
        "metrics": {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val_")},
        "weights": [float(p.double().norm()) for p in module.network.parameters() if p.requires_grad],
    }
    (out / f"{devices}-{os.environ.get('LOCAL_RANK', '0')}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
