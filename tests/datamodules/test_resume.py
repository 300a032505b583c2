"""A fit that is killed and resumed trains on the very rows that the uninterrupted fit trains on, and on no other."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fulgurite.datamodules import FilesDataModule

ROWS = 38
EPOCHS = 3


class Killed(RuntimeError):
    """Stands for a kill in the middle of an epoch."""


class Recorder(LightningModule):
    """Records the rows of each training batch; each row is one word of its own."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.save_hyperparameters({"backbone": "none"})
        self.layer = torch.nn.Linear(1, 1)
        self.stop_at = stop_at
        self.seen: list[tuple[int, tuple[int, ...], int]] = []
        self.validated = 0

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        if self.stop_at is not None and len(self.seen) == self.stop_at:
            raise Killed
        rows = tuple(batch["input_ids"][:, 1:-1].sum(1).tolist())
        self.seen.append((self.current_epoch, rows, int(batch["tokens_in_window"])))
        loss: torch.Tensor = self.layer(torch.ones(1, 1)).sum()
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], index: int) -> None:
        self.validated += int((batch["labels"] != -100).sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture
def numbers(tmp_path: Path, word_tokenizer: Path) -> dict[str, Any]:
    """Arguments of a data module whose rows are told apart by the numbers of their words."""
    words = [*"abcdefgh", "good", "bad", "film", "the", "of", "and", "red", "green", "blue", "one", "two", "three"]
    combinations = [words[i] + " " + words[j] for i in range(20) for j in range(i, 20)][: ROWS * 5 : 5]
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"{t},{i % 2}\n" for i, t in enumerate(combinations)))
    return {
        "train_path": str(tmp_path / "train.csv"),
        "val_path": str(tmp_path / "train.csv"),
        "tokenizer": str(word_tokenizer),
        "batch_size": 4,
        "cache_dir": str(tmp_path / "cache"),
    }


def fit(
    numbers: dict[str, Any],
    model: Recorder,
    accumulate: int,
    callbacks: list[Callback],
    ckpt: str | None = None,
    **more: Any,
) -> Trainer:
    more = {"max_epochs": EPOCHS, "limit_val_batches": 0, **more}
    trainer = Trainer(
        accelerator="cpu",
        accumulate_grad_batches=accumulate,
        callbacks=callbacks,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **more,
    )
    with suppress(Killed):
        trainer.fit(model, FilesDataModule(**numbers), ckpt_path=ckpt)
    return trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("stop_at", [4, 8, 10, 11, 17, 20, 25])
def test_resume_from_a_step(numbers: dict[str, Any], tmp_path: Path, accumulate: int, stop_at: int) -> None:
    _resume_from_a_step(numbers, tmp_path, accumulate, stop_at, {})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "more", [{"limit_val_batches": 1.0}, {"limit_train_batches": 7}, {"max_epochs": -1, "max_steps": 9}]
)
def test_resume_from_a_step_of_other_runs(numbers: dict[str, Any], tmp_path: Path, more: dict[str, Any]) -> None:
    for stop_at in (5, 7, 10, 16):
        _resume_from_a_step(numbers, tmp_path / str(stop_at), 2, stop_at, more)


@pytest.mark.filterwarnings("ignore")
def test_resume_with_workers(numbers: dict[str, Any], tmp_path: Path) -> None:
    _resume_from_a_step({**numbers, "num_workers": 1}, tmp_path, 3, 14, {})


def _resume_from_a_step(
    numbers: dict[str, Any], tmp_path: Path, accumulate: int, stop_at: int, more: dict[str, Any]
) -> None:
    whole = Recorder()
    fit(numbers, whole, accumulate, [], **more)
    killed = Recorder(stop_at=stop_at)
    saver = ModelCheckpoint(dirpath=tmp_path / "saved", every_n_train_steps=1, save_last=True)
    fit(numbers, killed, accumulate, [saver], **more)
    assert killed.seen == whole.seen[:stop_at]
    # The accumulated gradients of an unfinished window are lost with the process: its rows are trained on again.
    steps = torch.load(saver.last_model_path, weights_only=True)["global_step"]
    done = _batches_after(steps, accumulate, len([seen for seen in whole.seen if seen[0] == 0]))
    resumed = Recorder()
    trainer = fit(numbers, resumed, accumulate, [], saver.last_model_path, **more)
    assert resumed.seen == whole.seen[done:]
    assert trainer.global_step == _steps_of(whole, accumulate)


def _batches_after(steps: int, accumulate: int, per_epoch: int) -> int:
    per_epoch_steps = -(-per_epoch // accumulate)
    epochs, rest = divmod(steps, per_epoch_steps)
    return epochs * per_epoch + rest * accumulate


def _steps_of(model: Recorder, accumulate: int) -> int:
    epochs = [epoch for epoch, _, _ in model.seen]
    return sum(-(-epochs.count(epoch) // accumulate) for epoch in set(epochs))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("steps", [-1, 1000], ids=["no max_steps", "max_steps"])
@pytest.mark.parametrize(
    ("validate", "when"), [(False, "train epoch end"), (True, "train epoch end"), (True, "validation end")]
)
def test_resume_from_the_end_of_an_epoch(
    numbers: dict[str, Any], tmp_path: Path, accumulate: int, validate: bool, when: str, steps: int
) -> None:
    more = {"limit_val_batches": 1.0 if validate else 0, "max_steps": steps}
    whole = Recorder()
    fit(numbers, whole, accumulate, [], **more)
    saver = ModelCheckpoint(
        dirpath=tmp_path / "saved", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=when == "train epoch end"
    )
    fit(numbers, Recorder(), accumulate, [saver], **{**more, "max_epochs": 2})
    first = [seen for seen in whole.seen if seen[0] == 0]
    for epochs, name in ((1, "epoch=0.ckpt"), (2, "epoch=1.ckpt")):
        resumed = Recorder()
        trainer = fit(numbers, resumed, accumulate, [], str(tmp_path / "saved" / name), **more)
        assert resumed.seen == whole.seen[epochs * len(first) :]
        assert trainer.global_step == _steps_of(whole, accumulate)


@pytest.mark.filterwarnings("ignore")
def test_resume_in_the_middle_with_another_batch_size_is_refused(numbers: dict[str, Any], tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path / "saved", every_n_train_steps=1, save_last=True)
    fit(numbers, Recorder(stop_at=4), 1, [saver])
    with pytest.raises(ValueError, match="rows per global batch was 4, is 5"):
        fit({**numbers, "batch_size": 5}, Recorder(), 1, [], saver.last_model_path)


@pytest.mark.filterwarnings("ignore")
def test_uninterrupted_fit_sees_every_row_once_per_epoch_and_validates_all(numbers: dict[str, Any]) -> None:
    model = Recorder()
    fit(numbers, model, 3, [], limit_val_batches=1.0, num_sanity_val_steps=0)
    orders = [[row for epoch, rows, _ in model.seen if epoch == e for row in rows] for e in range(EPOCHS)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert len(set(orders[0])) > 10 and len(orders[0]) == ROWS
    assert orders[0] != orders[1] != orders[2]
    assert [tokens for _, _, tokens in model.seen[:10]] == [12] * 9 + [2]
    assert model.validated == ROWS * EPOCHS


@pytest.mark.filterwarnings("ignore")
def test_a_second_fit_of_one_trainer_goes_on_with_the_next_epoch(numbers: dict[str, Any]) -> None:
    whole, model = Recorder(), Recorder()
    fit(numbers, whole, 1, [])
    trainer = fit(numbers, model, 1, [], max_epochs=1)
    trainer.fit_loop.max_epochs = EPOCHS
    trainer.fit(model, FilesDataModule(**numbers))
    assert model.seen == whole.seen


def test_overfit_batches_is_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="use limit_train"):
        fit(numbers, Recorder(), 1, [], overfit_batches=2)
