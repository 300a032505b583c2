"""Run by test_apet_ddp.py: APET by gradient scores, text to text, on DEVICES processes; writes losses, metrics and δ."""

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
from fulgurite.datamodules import PETTasksDataModule
from fulgurite.lightning_modules import APETModule


def main(devices: int, task: str, out: Path) -> None:
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    module = APETModule("playground", task="causal_lm", budget=800, selection="gradient", learning_rate=1e-2)
    rows = {"limit_train": 61, "limit_eval": 13, "batch_size": 8 // devices, "max_length": 48, "max_answer_length": 6}
    data = PETTasksDataModule(task, path="builtin", task_type="causal_lm", **rows)
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
        "positions": {name: places.tolist() for name, places in module.adapter.positions.items()},
        "deltas": [d.detach().tolist() for d in module.adapter.deltas.values()],
    }
    (out / f"{devices}-{os.environ.get('LOCAL_RANK', '0')}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
