"""Throughput: what is counted, when it is read, and what is said."""

import time
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from fulgurite.callbacks import Throughput

IDS = torch.ones(2, 5, dtype=torch.int64)
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])


class Sleeper(LightningModule):
    """A model of one weight whose steps take a known time."""

    def __init__(self, train_seconds: float = 0.0, val_seconds: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.train_seconds, self.val_seconds = train_seconds, val_seconds

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        time.sleep(self.train_seconds)
        return self.weight.square()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        time.sleep(self.val_seconds)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(callback: Throughput, module: Sleeper, batches: list[Any], **options: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        log_every_n_steps=options.pop("log_every_n_steps", 2),
        **options,
    )
    loader: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader, DataLoader([0], batch_size=None))  # type: ignore[arg-type]
    return trainer


@pytest.mark.parametrize(
    ("labels", "supervised"),
    [
        (torch.tensor([1, -100]), 1),
        (torch.tensor([0.5, float("nan")]), 1),
        (torch.tensor([[7, -100, 7, 7, -100], [7, 7, -100, -100, -100]]), 3),  # the first column predicts nothing
    ],
)
def test_counts_tokens_targets_and_rows(
    labels: torch.Tensor, supervised: int, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = Throughput()
    batches = [{"input_ids": IDS, "attention_mask": MASK, "labels": labels}] * 5
    fit(callback, Sleeper(), batches)
    assert callback._totals == {"tokens": 35, "supervised_tokens": 5 * supervised, "samples": 10}
    printed = capsys.readouterr().out
    assert "optimizer steps" in printed and "peak memory" in printed and "tokens per second" in printed
    assert "\x1b[" not in printed


def test_rates_are_counts_by_time_in_training_without_validation() -> None:
    callback = Throughput(flops_per_token=2.0, peak_flops=1000.0)
    batches = [{"input_ids": IDS, "labels": torch.zeros(2, dtype=torch.int64)}] * 6
    trainer = fit(callback, Sleeper(0.02, 0.4), batches, val_check_interval=3, num_sanity_val_steps=0)
    assert 0.12 <= callback._seconds < 0.4  # 6 steps of 0.02 s; one validation alone takes 0.4 s
    logged = trainer.logged_metrics
    assert 10 / 0.1 < float(logged["tokens_per_second"]) <= 10 / 0.02
    assert float(logged["mfu"]) == pytest.approx(float(logged["tokens_per_second"]) * 2.0 / 1000.0, rel=1e-4)
    assert float(logged["peak_memory_gib"]) > 0.01


def test_accumulated_batches_count_as_one_step(capsys: pytest.CaptureFixture[str]) -> None:
    callback = Throughput()
    fit(callback, Sleeper(), [{"input_ids": IDS}] * 6, accumulate_grad_batches=3)
    assert callback._steps == 2 and callback._totals["samples"] == 12
    assert "supervised" not in capsys.readouterr().out


def test_the_device_is_read_once_per_logging_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    honest = Throughput._read
    monkeypatch.setattr(Throughput, "_read", lambda self: (reads.append(1), honest(self))[1])
    fit(Throughput(), Sleeper(), [{"input_ids": IDS}] * 9, log_every_n_steps=4)
    assert len(reads) == 3  # after steps 4 and 8, and at the end


def test_foreign_batches_do_not_disturb_a_run() -> None:
    callback = Throughput()
    fit(callback, Sleeper(), [torch.zeros(3)] * 3)
    assert callback._totals["tokens"] == 0


@pytest.mark.parametrize("options", [{"flops_per_token": 0.0}, {"peak_flops": -1.0}])
def test_refuses_figures_that_are_not_positive(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"Throughput: .* allowed are positive numbers"):
        Throughput(**options)
