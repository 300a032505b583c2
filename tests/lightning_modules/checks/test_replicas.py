"""Which strategies are allowed, and what several processes compare after their first step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import strategies

from fulgurite.lightning_modules import ClassificationModule, SoRAModule
from fulgurite.lightning_modules.checks.replicas import EqualReplicas, check_strategy
from tests.lightning_modules.test_resume_modules import data


class OwnDDP(strategies.DDPStrategy):
    """A user's subclass."""


@pytest.mark.parametrize(
    "name", ["FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy", "XLAStrategy", "SingleDeviceXLAStrategy"]
)
def test_strategies_that_were_not_proved_are_refused_by_name(name: str) -> None:
    strategy = object.__new__(getattr(strategies, name))  # some need packages or machines that are not here
    with pytest.raises(ValueError, match=rf"SFTModule: the strategy {name} was given; .* allowed are ddp"):
        check_strategy("SFTModule", strategy)


def test_one_device_and_ddp_are_allowed() -> None:
    for strategy in (strategies.DDPStrategy(), OwnDDP(), strategies.SingleDeviceStrategy("cpu")):
        check_strategy("SFTModule", strategy)


def test_a_module_refuses_before_anything_is_loaded(make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClassificationModule, "configure_model", lambda self: pytest.fail("loaded"))
    trainer = make_trainer(max_steps=1)
    kind = type("Unproved", (strategies.SingleDeviceStrategy,), {"__module__": "lightning.pytorch.strategies.other"})
    trainer.strategy.__class__ = kind
    with pytest.raises(ValueError, match="the strategy Unproved was given"):
        trainer.fit(ClassificationModule("playground"), data())


@pytest.mark.parametrize("same", [True, False])
def test_weights_are_compared_once_after_the_first_step(same: bool) -> None:
    module: Any = torch.nn.Linear(2, 2)
    module.device = torch.device("cpu")
    asked = []

    def all_gather(mine: torch.Tensor) -> torch.Tensor:
        asked.append(mine)
        return torch.stack([mine, mine if same else mine + torch.tensor([0, 0, 1])])

    trainer: Any = SimpleNamespace(world_size=2, global_step=7, strategy=SimpleNamespace(all_gather=all_gather))
    check = EqualReplicas()
    check.on_train_start(trainer, module)
    check.on_train_batch_end(trainer, module)
    assert not asked, "no step was made: an accumulated batch"
    trainer.global_step = 8
    if same:
        check.on_train_batch_end(trainer, module)
        check.on_train_batch_end(trainer, module)
    else:
        with pytest.raises(RuntimeError, match=r"different weights \(1 of 2 trained parameters, the first is 'bias'\)"):
            check.on_train_batch_end(trainer, module)
    assert len(asked) == 1


def test_sora_keeps_its_parameters_where_ddp_holds_them(make_trainer: Any, tiny_bert: str) -> None:
    module = SoRAModule(
        tiny_bert, rank=4, schedule=[0.0, 9.0], stage_epochs=1, learning_rate=5e-3, patience=1, look_every=1
    )
    trainer = make_trainer(strategy="ddp", devices=1, limit_val_batches=0, limit_train_batches=3, max_epochs=2)
    held: list[Any] = []
    begin = module.on_train_start

    def on_train_start() -> None:
        held.extend(module.adapter.gates)
        begin()

    module.on_train_start = on_train_start  # type: ignore[method-assign]
    trainer.fit(module, data())
    assert len(module.stage_reports) == 2
    assert all(a is b for a, b in zip(held, module.adapter.gates, strict=True))
