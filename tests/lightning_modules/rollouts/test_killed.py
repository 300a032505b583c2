"""Runs that get kill -9 in the middle of drawing and of training go on from the last checkpoint as if nothing had been."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from fulgurite.callbacks import AdapterCheckpoint, RandomState
from fulgurite.lightning_modules.rollouts.drawing import PolicySampler
from fulgurite.optim import ProximalAdamW
from tests.forking.killing import killed_at
from tests.lightning_modules.recording import Losses
from tests.lightning_modules.rollouts.cases import policy, prompts

OPTIONS = {
    "advantage": "gae",
    "beta": 0.05,
    "kl_target": 0.01,
    "kl_horizon": 50,
    "inner_epochs": 2,
    "minibatches": 2,
}


def run(folder: Path, resume: bool = False):
    """Three batches of four optimizer steps each, a checkpoint behind each batch; losses and trained weights."""
    seed_everything(0)
    module, losses = policy(**OPTIONS), Losses()
    checkpoint = ModelCheckpoint(dirpath=folder / "checkpoints", save_last=True, every_n_train_steps=1)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[AdapterCheckpoint(), RandomState(), checkpoint, losses],
    )
    trainer.fit(module, prompts(), ckpt_path=folder / "checkpoints" / "last.ckpt" if resume else None)
    weights = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    return losses.values, weights, trainer.global_step


def stopping_in(folder: Path, moment: str, marker: Path):
    """The run, which writes the marker in the middle of its second batch and waits there."""
    counted = {"answers": 0, "steps": 0}

    def wait() -> None:
        marker.write_text("here")
        time.sleep(60)

    sample, step = PolicySampler.sample, ProximalAdamW.step

    def counted_sample(self, *args, **options):
        for answer in sample(self, *args, **options):
            counted["answers"] += 1
            if moment == "drawing" and counted["steps"] == 4 and counted["answers"] == 17:
                wait()
            yield answer

    def counted_step(self, *args, **options):
        counted["steps"] += 1
        found = step(self, *args, **options)
        if moment == "training" and counted["steps"] == 6:
            wait()
        return found

    PolicySampler.sample, ProximalAdamW.step = counted_sample, counted_step  # in a process that is about to be killed
    run(folder)


@pytest.mark.slow
def test_killed_in_the_middle_of_drawing_and_of_training(tmp_path):
    folders = {moment: tmp_path / moment for moment in ("drawing", "training")}
    for moment, folder in folders.items():
        folder.mkdir()
        marker = folder / "marker"
        killed_at(lambda f=folder, m=moment, at=marker: stopping_in(f, m, at), marker, 4)
        saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert saved["global_step"] == 4, "the first batch is saved, the second is lost"
    losses, weights, steps = run(tmp_path / "whole")
    assert len(losses) == 3 and steps == 12
    for moment, folder in folders.items():
        again, found, last = run(folder, resume=True)
        assert again == losses[1:] and last == steps, moment
        assert found.keys() == weights.keys() and "value_head.weight" in found
        assert all(torch.equal(found[name], tensor) for name, tensor in weights.items()), moment
