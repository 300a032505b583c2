"""SparsityReport: the grid, the files, the history and its resumption."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from fulgurite.adapters import LoRA, RankRow, SoRA, attach
from fulgurite.callbacks import SparsityReport
from fulgurite.callbacks.sparsity_layout import arrange, short_names


def row(module: str, nonzero: int) -> RankRow:
    return RankRow(module, 8, 8, nonzero, 100, 10 * nonzero)


def test_names_are_shortened_until_they_differ() -> None:
    names = ["attention.self.query", "attention.output.dense", "output.dense", "intermediate.dense"]
    assert list(short_names(names).values()) == [
        "query",
        "attention.output.dense",
        "output.dense",
        "intermediate.dense",
    ]


def test_layers_are_lines_and_kinds_are_columns() -> None:
    rows = [row(f"bert.layer.{i}.{kind}", 3 * i + j) for i in range(2) for j, kind in enumerate(["a.query", "b.dense"])]
    grid = arrange([*rows, row("bert.pooler", 5)])
    assert grid.kinds == ["query", "dense", "pooler"]
    assert grid.layers == ["0", "1", "–"]
    assert grid.left == [[0, 1, None], [3, 4, None], [None, None, 5]]
    assert grid.full == 8


def test_two_stacks_do_not_share_lines() -> None:
    grid = arrange([row("m.encoder.block.0.q", 1), row("m.decoder.block.0.q", 2)])
    assert grid.layers == ["encoder.block 0", "decoder.block 0"] and grid.left == [[1], [2]]


class Closer(LightningModule):
    """Two layers of one kind; every step puts one more gate of layer 0 to zero."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        layers = [nn.ModuleDict({"query": nn.Linear(6, 6)}) for _ in range(2)]
        self.network = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        self.adapter = attach(self.network, config, check_forward=False)
        self.stage_reports: list[dict[str, Any]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        gates = self.adapter.gates
        if gates:
            gates[0].data[: self.global_step + 1] = 0
        return sum(p.square().sum() for p in self.parameters() if p.requires_grad)  # type: ignore[return-value]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.0)


def fit(module: Closer, folder: Path, steps: int, callback: SparsityReport, ckpt_path: str | None = None) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback], default_root_dir=folder, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader([0] * 8, batch_size=None), ckpt_path=ckpt_path)  # type: ignore[arg-type]
    return trainer


def test_history_table_csv_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = SparsityReport(every_n_steps=2)
    module = Closer(SoRA(rank=4, targets=r".*query", gate_init="ones"))
    module.stage_reports = [
        dict(
            stage=i, threshold=0.1 * i, nonzero=8 - i, parameters_kept=100 - i, memorization=100.0, generalization=None
        )
        for i in range(2)
    ]
    trainer = fit(module, tmp_path, 3, callback)
    assert callback.history == [(0, 8), (2, 6), (3, 5)]
    assert float(trainer.logged_metrics["gates_nonzero"]) == 6.0
    printed = capsys.readouterr().out
    assert "5 of 8 ranks left (62.5 %)" in printed and "stages of the sparsifying schedule" in printed
    assert "\x1b[" not in printed
    with open(tmp_path / "sparsity.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(line["module"], line["nonzero"]) for line in rows] == [("layer.0.query", "1"), ("layer.1.query", "4")]
    assert (tmp_path / "sparsity.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["sparsity.csv", "sparsity.png"]


def test_history_survives_a_resume(tmp_path: Path) -> None:
    config = SoRA(rank=4, targets=r".*query", gate_init="ones")
    first = fit(Closer(config), tmp_path, 2, SparsityReport(every_n_steps=1))
    first.save_checkpoint(tmp_path / "a.ckpt")
    callback = SparsityReport(every_n_steps=1)
    fit(Closer(config), tmp_path, 4, callback, ckpt_path=str(tmp_path / "a.ckpt"))
    assert callback.history == [(0, 8), (1, 7), (2, 6), (3, 5), (4, 4)]


def test_plain_lora_has_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(Closer(LoRA(rank=2, targets=r".*query")), tmp_path, 2, SparsityReport())
    assert list(tmp_path.iterdir()) == [] and "ranks left" not in capsys.readouterr().out


def test_refuses_an_interval_below_one() -> None:
    with pytest.raises(ValueError, match="SparsityReport: every_n_steps is 0"):
        SparsityReport(every_n_steps=0)
