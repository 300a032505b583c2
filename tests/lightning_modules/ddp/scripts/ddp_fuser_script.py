"""Run by test_fuser_ddp.py: UltraFuser over both stages on DEVICES processes, a global batch of 4 and 2 rows per domain."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
from fulgurite.callbacks import RandomState
from tests.lightning_modules.ddp.processes import validation_metrics, write
from tests.lightning_modules.fuser_cases import make_data, make_module, make_trainer
from tests.lightning_modules.recording import Losses


def main(devices: int, out: Path) -> None:
    torch.set_num_threads(1)
    specialists = [str(out / name) for name in ("text", "code", "maths")]
    module = make_module(specialists, stage2_learning_rate=2e-3)
    losses = Losses()
    options = {"devices": devices, "strategy": "ddp" if devices > 1 else "auto", "precision": "64-true"}
    trainer = make_trainer(out, [RandomState(), losses], accumulate_grad_batches=2, gradient_clip_val=0.5, **options)
    trainer.fit(module, make_data(out, str(out / "rows"), batch_size=[4 // devices, 2 // devices]))
    result = {
        "losses": losses.values,
        "metrics": validation_metrics(trainer),
        "weights": {n: p.double().flatten()[:50].tolist() for n, p in module.network.named_parameters()},
    }
    write(result, devices, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
