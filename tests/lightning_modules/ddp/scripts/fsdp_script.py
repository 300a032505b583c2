"""Run by test_fsdp.py: CASES (comma-separated) on DEVICES processes with shards, a global batch of 4; writes what each ends with.

Every case is a fit in float32 of its own; "go-on" continues the full tuning of the checkpoint that lies in OUT for two more steps.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
from fulgurite.adapters import LoRA
from fulgurite.callbacks import AdapterCheckpoint, GenerationSamples, RandomState
from fulgurite.datamodules import GLUEDataModule, PreferenceDataModule, UltraLinkDataModule
from fulgurite.lightning_modules import PreferenceModule, SFTModule, SoRAModule
from fulgurite.lightning_modules.processes.strategy import ShardedStrategy
from tests.lightning_modules.ddp.processes import validation_metrics, write
from tests.lightning_modules.recording import Losses


def make(case: str, each: int, out: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Module, data and options of the trainer; `each` rows on each process."""
    texts = UltraLinkDataModule(path="builtin", limit_train=24, batch_size=each, max_length=256)
    if case == "lora":
        module = SFTModule("playground", adapter=LoRA(rank=4, alpha=8), learning_rate=5e-3, gradient_checkpointing=True)
        return module, texts, {"max_steps": 4, "accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    if case in ("full", "go-on"):
        return SFTModule("playground", learning_rate=1e-3, lr_schedule="constant", warmup_ratio=0.0), texts, {
            "max_steps": -1, "gradient_clip_val": 0.5, "max_epochs": 100
        }  # fmt: skip
    if case == "dpo":
        pairs = PreferenceDataModule(
            path="builtin", limit_train=20, batch_size=each, max_length=128, cache_dir=str(out / f"disk-{each}")
        )
        return (
            PreferenceModule("playground", loss="dpo", adapter=LoRA(rank=4), learning_rate=5e-3),
            pairs,
            {"max_steps": 4},
        )
    rows = GLUEDataModule("sst2", path="builtin", splits="train", limit_train=61, batch_size=2 * each, max_length=32)
    module = SoRAModule(
        "playground", rank=4, threshold=0.05, learning_rate=5e-3, patience=4, look_every=2, dtype="float32"
    )
    return module, rows, {"max_epochs": 2}


def bytes_held(module: Any, optimizer: Any) -> dict[str, int]:
    """What this process holds of the weights and of the optimizer's state."""
    states = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    local = {"weights": [*module.parameters()], "optimizer": states}
    return {
        name: sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors)
        for name, tensors in local.items()
    }


class SavesAtTheEnd(Callback):
    """A checkpoint of the last step, as `fulgurite fit` leaves one."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        trainer.save_checkpoint(self.file)


def run(case: str, devices: int, out: Path) -> dict[str, Any]:
    seed_everything(0, verbose=False)
    module, data, options = make(case, 4 // devices, out)
    name = "full" if case == "go-on" else case
    losses, file = Losses(), out / f"{name}{'' if devices > 1 or case == 'go-on' else '-one'}.ckpt"
    if case == "go-on":
        options["max_steps"] = torch.load(file, weights_only=False)["global_step"] + 2
    elif case == "full":
        options["max_steps"] = 2 if devices > 1 else 6
    more: list[Callback] = [SavesAtTheEnd(file)]
    more += [GenerationSamples(count=1, max_new_tokens=4, folder=str(out))] if case == "lora" else []
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy=ShardedStrategy() if devices > 1 else "auto",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[AdapterCheckpoint(), RandomState(), losses, *more], default_root_dir=out, limit_val_batches=2,
        num_sanity_val_steps=1, val_check_interval=1.0 if case == "sora" else None,
        check_val_every_n_epoch=1 if case == "sora" else 2, **options,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=str(file) if case == "go-on" else None)
    held = bytes_held(module, trainer.optimizers[0])
    trainer.validate(module, data, verbose=False)
    live = [row.live for row in module.adapter.rank_table()] if case == "sora" else []
    return {"losses": losses.values, "metrics": validation_metrics(trainer), "bytes": held, "live": live}


def main(devices: int, cases: str, out: Path) -> None:
    torch.set_num_threads(1)
    write({case: run(case, devices, out) for case in cases.split(",")}, devices, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
