"""Small runs for tests, a language model's and a classifier's on built-in rows, and checkpoints made without training."""

import json
import shutil
from pathlib import Path
from typing import Any

from fulgurite.data.playground import resolve_backbone

__all__ = ["QUICK", "SMALL", "checkpoint_of", "evil_backbone"]

SMALL = (
    "--model SFTModule --model.backbone playground --model.adapter LoRA --model.adapter.rank 2 --data UltraChatDataModule "
    "--data.path builtin --data.limit_train 32 --data.batch_size 4 --trainer.accelerator cpu --trainer.limit_val_batches 1 "
    "--trainer.enable_progress_bar false"
).split()

QUICK = (  # under a second where torch is loaded
    "--model ClassificationModule --model.backbone playground --model.adapter LoRA --model.adapter.rank 2 --data GLUEDataModule "
    "--data.path builtin --data.splits paper --data.limit_train 32 --data.batch_size 4 --trainer.accelerator cpu "
    "--trainer.limit_val_batches 1 --trainer.enable_progress_bar false"
).split()


def checkpoint_of(module: Any, file: Path) -> Path:
    """A checkpoint of a module as a fit leaves it."""
    from lightning.pytorch import Trainer

    from fulgurite.callbacks import AdapterCheckpoint

    if module.network is None:
        module.configure_model()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[AdapterCheckpoint()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.strategy.connect(module)
    trainer.save_checkpoint(file)
    return file


def evil_backbone(folder: Path, marker: Path) -> Path:
    """The playground's model with a Python file that makes `marker` when it is imported."""
    shutil.copytree(resolve_backbone("playground"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Config(LlamaConfig):\n    pass\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    return folder
