"""Run by test_rl_ddp.py: three methods on DEVICES processes, a global batch of 4 prompts; writes each rank's losses and figures."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, seed_everything

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
from fulgurite.data.playground import builtin_rows
from fulgurite.datamodules import PromptsDataModule
from tests.lightning_modules.ddp.processes import fit, validation_metrics, write
from tests.lightning_modules.rollouts.cases import policy

METHODS: dict[str, dict[str, Any]] = {
    "group": {"advantage_scale": "batch", "beta": 0.05, "kl_target": 0.01, "kl_horizon": 50, "redraw_groups": 1},
    "gae": {"advantage": "gae", "beta": 0.05, "loss_mean": "answer", "mask_truncated": True},
    "reinforce": {"advantage": "reinforce", "kl_bound": 0.02},
}
STEPS = {"inner_epochs": 2, "minibatches": 2, "token_budget": 150, "learning_rate": 5e-3}


class Figures(Callback):
    """What each training batch logged, without times."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        found = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("train_")}
        self.seen.append({n: v for n, v in found.items() if not n.endswith(("seconds", "second", "share"))})


def main(devices: int, out: Path) -> None:
    torch.set_num_threads(1)
    # Nine prompts, of which three are one: the last batch has one prompt, so that the second process has none.
    rows = builtin_rows("gsm8k", "train", count=7)
    folder = out / f"rows-{devices}-{os.environ.get('LOCAL_RANK', '0')}"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0], rows[0]]))
    (folder / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    result: dict[str, Any] = {}
    for name, options in METHODS.items():
        seed_everything(0, verbose=False)
        module = policy(**{**STEPS, "max_new_tokens": 10, **options})
        data = PromptsDataModule(path=str(folder), tokenizer="playground", batch_size=4 // devices, max_length=64)
        figures = Figures()
        trainer, losses = fit(module, data, devices, out, figures, max_epochs=1, accumulate_grad_batches=1)
        trained = [p for p in module.parameters() if p.requires_grad]
        result[name] = {
            "losses": losses,
            "figures": figures.seen,
            "metrics": validation_metrics(trainer),
            "weights": [float(p.double().norm()) for p in trained],
            "steps": trainer.global_step,
        }
    write(result, devices, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
