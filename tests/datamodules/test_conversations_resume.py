"""With packing on, a fit that is killed in mid-epoch and resumed sees the very batches of the uninterrupted fit."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fulgurite.datamodules import UltraLinkDataModule


class Killed(RuntimeError):
    """Stands for a kill in the middle of an epoch."""


class Recorder(LightningModule):
    """Records the tokens of each training batch."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.stop_at = stop_at
        self.seen: list[tuple[int, tuple[int, ...], int]] = []
        self.targets: list[int] = []

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        if self.stop_at is not None and len(self.seen) == self.stop_at:
            raise Killed
        self.seen.append((self.current_epoch, tuple(batch["input_ids"][0].tolist()), int(batch["tokens_in_window"])))
        self.targets.append(int((batch["labels"] != -100).sum()))
        loss: torch.Tensor = self.layer(torch.ones(1, 1)).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(tmp_path: Path, model: Recorder, callbacks: list[Any], ckpt: str | None = None, **options: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        accumulate_grad_batches=3,
        limit_val_batches=0,
        callbacks=callbacks,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        default_root_dir=tmp_path,
    )
    defaults: dict[str, Any] = {"limit_train": 150, "max_length": 256, "batch_size": 4, "weights": None}
    data = UltraLinkDataModule(
        path="builtin", tokenizer="playground", cache_dir=str(tmp_path / "cache"), **{**defaults, **options}
    )
    with suppress(Killed):
        trainer.fit(model, data, ckpt_path=ckpt)
    return trainer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("stop_at", "options"),
    [
        (5, {}),
        (12, {}),
        (12, {"num_workers": 1}),
        (14, {"weights": {"en": 0.3, "es": 0.3, "fr": 0.2, "ru": 0.1, "zh": 0.1}, "mixing": "repeat"}),
        (17, {"packing": False, "batch_size": 12}),
    ],
)
def test_resumed_equals_uninterrupted(tmp_path: Path, stop_at: int, options: dict[str, Any]) -> None:
    whole = Recorder()
    fit(tmp_path, whole, [], **options)
    epoch = sum(seen[0] == 0 for seen in whole.seen)
    assert 8 <= epoch <= 16 and len(whole.seen) == 3 * epoch
    assert len({seen[1] for seen in whole.seen[:epoch]}) == epoch
    assert {seen[1] for seen in whole.seen[:epoch]} != {seen[1] for seen in whole.seen[epoch : 2 * epoch]}
    # Each batch says how many targets its whole window has.
    for start in range(0, epoch, 3):
        end = min(start + 3, epoch)
        assert {seen[2] for seen in whole.seen[start:end]} == {sum(whole.targets[start:end])}
    saver = ModelCheckpoint(dirpath=tmp_path / "saved", every_n_train_steps=1, save_last=True)
    killed = Recorder(stop_at=stop_at)
    fit(tmp_path, killed, [saver], **options)
    assert killed.seen == whole.seen[:stop_at]
    steps = torch.load(saver.last_model_path, weights_only=True)["global_step"]
    windows = -(-epoch // 3)
    done = (steps // windows) * epoch + min((steps % windows) * 3, epoch)
    resumed = Recorder()
    fit(tmp_path, resumed, [], ckpt=saver.last_model_path, **options)
    assert 0 < done <= stop_at and resumed.seen == whole.seen[done:]


@pytest.mark.filterwarnings("ignore")
def test_other_packs_are_refused_in_mid_epoch(tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path / "saved", every_n_train_steps=1, save_last=True)
    fit(tmp_path, Recorder(stop_at=5), [saver])
    with pytest.raises(ValueError, match=r"rows was .*, is "):
        fit(tmp_path, Recorder(), [], ckpt=saver.last_model_path, max_length=200)
