"""A run that was killed in the middle of an epoch goes on to the same losses, bit for bit, with dropout and retired ranks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import seed_everything

from fulgurite.adapters import LoRA
from fulgurite.datamodules import GLUEDataModule
from fulgurite.lightning_modules import ClassificationModule, SoRAModule
from tests.lightning_modules.recording import Losses


def sora(backbone, **options):
    defaults = {"rank": 4, "dropout": 0.1, "threshold": 0.08, "learning_rate": 5e-3, "patience": 3, "look_every": 2}
    return SoRAModule(backbone, **{**defaults, **options})


def data(**options):
    return GLUEDataModule(
        "sst2", path="builtin", splits="train", limit_train=60, batch_size=8, max_length=32, **options
    )


def fit(make_trainer, tmp_path, module, *, crash_at=None, ckpt_path=None, **options):
    losses = Losses(crash_at)
    if crash_at is not None:
        shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    trainer = make_trainer(losses, limit_val_batches=1, **options)
    if crash_at is None:
        trainer.fit(module, data(), ckpt_path=ckpt_path)
    else:
        with pytest.raises(RuntimeError, match="killed"):
            trainer.fit(module, data(), ckpt_path=ckpt_path)
    return losses.values


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("crash_at", [3, 11], ids=["first epoch", "second epoch"])
def test_killed_and_resumed_equals_uninterrupted(make_trainer, tiny_bert, tmp_path, accumulate, crash_at):
    options = {"accumulate_grad_batches": accumulate}
    seed_everything(1)
    straight_module = sora(tiny_bert)
    straight = fit(make_trainer, tmp_path, straight_module, **options)
    assert len(straight) == 16 and len(set(straight)) == 16
    seed_everything(1)
    fit(make_trainer, tmp_path, sora(tiny_bert), crash_at=crash_at, **options)
    last = tmp_path / "checkpoints" / "last.ckpt"
    done = torch.load(last, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
    seed_everything(999)  # whatever the new process draws must not matter
    torch.randn(100)
    resumed_module = sora(tiny_bert)
    resumed = fit(make_trainer, tmp_path, resumed_module, ckpt_path=last, **options)
    assert resumed == straight[done:]
    assert 0 < done < crash_at
    live = [row.live for row in straight_module.adapter.rank_table()]
    assert [row.live for row in resumed_module.adapter.rank_table()] == live and min(live) < 4
    for (name, a), b in zip(
        straight_module.network.named_parameters(), resumed_module.network.parameters(), strict=True
    ):
        assert torch.equal(a, b), name


@pytest.mark.slow
def test_ranks_retired_before_the_kill_stay_retired(make_trainer, tiny_bert, tmp_path):
    seed_everything(1)
    module = sora(tiny_bert, threshold=9.0)
    fit(make_trainer, tmp_path, module, crash_at=10)
    assert all(row.live == 0 for row in module.adapter.rank_table())
    resumed = sora(tiny_bert, threshold=9.0)
    loaded = SoRAModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert all(row.live == 0 for row in loaded.adapter.rank_table())
    fit(make_trainer, tmp_path, resumed, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert all(row.live == 0 for row in resumed.adapter.rank_table())


def test_checkpoint_holds_the_adapter_and_the_head_only(make_trainer, tiny_bert, tmp_path):
    seed_everything(1)
    fit(make_trainer, tmp_path, sora(tiny_bert), max_epochs=1)
    keys = set(torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert all(".branches." in key or "classifier" in key for key in keys)
    assert any("classifier" in key for key in keys) and len(keys) == 12 * 4 + 2


@pytest.mark.slow
def test_a_sparsifying_schedule_resumes_inside_a_later_stage(make_trainer, tiny_bert, tmp_path):
    options = {"schedule": [0.0, 0.05, 0.2], "stage_epochs": 1, "threshold_scaling": "lr"}
    seed_everything(1)
    straight_module = sora(tiny_bert, **options)
    straight = fit(make_trainer, tmp_path, straight_module, max_epochs=3)
    reports = straight_module.stage_reports
    assert [r["threshold"] for r in reports] == [0.0, 0.05, 0.2]
    counts = [r["nonzero"] for r in reports]
    assert counts[0] == 48 and counts == sorted(counts, reverse=True) and counts[-1] < counts[0]
    assert reports[0]["memorization"] == reports[0]["generalization"] == 100.0
    seed_everything(1)
    fit(make_trainer, tmp_path, sora(tiny_bert, **options), crash_at=20, max_epochs=3)
    resumed_module = sora(tiny_bert, **options)
    resumed = fit(
        make_trainer, tmp_path, resumed_module, ckpt_path=tmp_path / "checkpoints" / "last.ckpt", max_epochs=3
    )
    assert resumed == straight[-len(resumed) :] and len(resumed) == 5
    assert resumed_module.stage_reports == reports


def test_learning_rate_starts_anew_in_each_stage(make_trainer, tiny_bert):
    from lightning.pytorch import Callback

    seen = []

    class Rates(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            group = next(g for g in trainer.optimizers[0].param_groups if g["name"] == "gates")
            seen.append((round(group["lr"], 6), group["threshold"]))

    module = sora(tiny_bert, schedule=[0.0, 0.1], stage_epochs=1, warmup_ratio=0.0, learning_rate=8e-3)
    make_trainer(Rates(), limit_val_batches=0, max_epochs=2).fit(module, data())
    assert [rate for rate, _ in seen] == pytest.approx([8e-3 * (8 - i) / 8 for i in range(8)] * 2, abs=1e-6)
    assert [threshold for _, threshold in seen] == [0.0] * 8 + [0.1] * 8


@pytest.mark.slow
def test_full_tuning_resumes_too(make_trainer, tiny_bert, tmp_path):
    def module():
        return ClassificationModule(tiny_bert, learning_rate=1e-3)

    seed_everything(2)
    straight = fit(make_trainer, tmp_path, module())
    seed_everything(2)
    fit(make_trainer, tmp_path, module(), crash_at=6)
    resumed = fit(make_trainer, tmp_path, module(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert resumed == straight[-len(resumed) :] and len(resumed) == 11


def test_a_checkpoint_of_another_adapter_is_refused(make_trainer, tiny_bert, tmp_path):
    fit(make_trainer, tmp_path, sora(tiny_bert), max_epochs=1)
    last: Path = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match="the checkpoint does not fit"):
        fit(
            make_trainer,
            tmp_path,
            ClassificationModule(tiny_bert, adapter=LoRA(rank=4, targets=r".*query")),
            ckpt_path=last,
        )
