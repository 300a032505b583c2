"""Run by test_preference.py: LOSS on trees with LoRA on DEVICES processes, a global batch of 4 packs; writes each rank's losses."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from lightning.pytorch import seed_everything

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
from fulgurite.adapters import LoRA
from fulgurite.datamodules import PreferenceDataModule
from fulgurite.lightning_modules import PreferenceModule
from tests.lightning_modules.ddp.processes import fit, validation_metrics, write


def main(devices: int, loss: str, out: Path) -> None:
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    module = PreferenceModule("playground", loss=loss, adapter=LoRA(rank=4, alpha=8), learning_rate=5e-3)
    kind = "labels" if loss == "kto" else "pairs"
    data = PreferenceDataModule(
        path="builtin", limit_train=40, batch_size=4 // devices, max_length=128, objective_kind=kind
    )
    trainer, losses = fit(module, data, devices, out, max_epochs=2)
    result = {
        "losses": losses,
        "metrics": validation_metrics(trainer),
        "weights": [float(p.double().norm()) for p in module.network.parameters() if p.requires_grad],
    }
    write(result, devices, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
