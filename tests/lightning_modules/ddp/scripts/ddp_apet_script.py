"""Run by test_apet_ddp.py: APET by gradient scores, text to text, on DEVICES processes; writes losses, metrics and δ."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from lightning.pytorch import seed_everything

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
from fulgurite.datamodules import PETTasksDataModule
from fulgurite.lightning_modules import APETModule
from tests.lightning_modules.ddp.processes import fit, validation_metrics, write


def main(devices: int, task: str, out: Path) -> None:
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    module = APETModule("playground", task="causal_lm", budget=800, selection="gradient", learning_rate=1e-2)
    rows = {"limit_train": 61, "limit_eval": 13, "batch_size": 8 // devices, "max_length": 48, "max_answer_length": 6}
    data = PETTasksDataModule(task, path="builtin", task_type="causal_lm", **rows)
    trainer, losses = fit(module, data, devices, out, max_epochs=2)
    result = {
        "losses": losses,
        "metrics": validation_metrics(trainer),
        "positions": {name: places.tolist() for name, places in module.adapter.positions.items()},
        "deltas": [d.detach().tolist() for d in module.adapter.deltas.values()],
    }
    write(result, devices, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
