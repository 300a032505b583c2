"""A run that ended within an epoch and is extended trains on the rows of the one longer run, with its losses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from fulgurite.data.sampling.resuming import resume_closed_epoch
from tests.data.sampling.every import EVERY, Seen, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore")


class StopAfter(Callback):
    """Stops as `max_time` and EarlyStopping do: by asking the trainer to."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.left -= 1
        trainer.should_stop |= self.left == 0


def run(make: Callable[[], Any], folder: Path, ckpt: str | None, *stop: Callback, **options: Any) -> tuple[Any, str]:
    saver = ModelCheckpoint(dirpath=folder / "saved", save_last=True, save_on_train_epoch_end=True, every_n_epochs=1)
    module = Seen()
    trainer = quiet_trainer(folder, **{"callbacks": [saver, *stop], "limit_val_batches": 0, "max_epochs": 3, **options})
    trainer.fit(module, make(), ckpt_path=ckpt)
    after = str(folder / "saved" / "after.ckpt")
    trainer.save_checkpoint(after)
    return module, after


def extended(make: Callable[[], Any], folder: Path, stops: list[int], by: str, when: str, **options: Any) -> list[Any]:
    """The batches of a run that stops after so many batches, then after so many more, …, and then goes on to its end."""
    seen: list[Any] = []
    ckpt = None
    for stop in [*stops, None]:
        more: dict[str, Any] = dict(options)
        callbacks = []
        if stop is not None and by == "max_steps":
            more["max_steps"] = (len(seen) + stop) // options.get("accumulate_grad_batches", 1)
        elif stop is not None:
            callbacks.append(StopAfter(stop))
        module, after = run(make, folder, ckpt, *callbacks, **more)
        ckpt = after if when == "after the fit" else str(folder / "saved" / "last.ckpt")
        seen += module.train_batches
    return seen


@pytest.mark.parametrize("when", ["after the fit", "at the epoch's end"])
@pytest.mark.parametrize("by", ["max_steps", "should_stop"])
@pytest.mark.parametrize("stops", [[6], [3, 4], [4, 9], [10, 5], [14, 10, 3]], ids=str)
def test_an_extended_run_equals_the_longer_one(tmp_path: Path, stops: list[int], by: str, when: str) -> None:
    def make() -> Any:
        return EVERY["glue"](limit_train=40, cache_dir=str(tmp_path / "cache"))

    whole = run(make, tmp_path / "whole", None)[0].train_batches
    assert len(whole) == 30
    assert extended(make, tmp_path, stops, by, when) == whole


@pytest.mark.parametrize(
    "more", [{"limit_val_batches": 2, "val_check_interval": 3}, {"limit_train_batches": 0.7}], ids=str
)
def test_it_does_with_validation_and_limits(tmp_path: Path, more: dict[str, Any]) -> None:
    def make() -> Any:
        return EVERY["glue"](limit_train=40, cache_dir=str(tmp_path / "cache"))

    whole = run(make, tmp_path / "whole", None, **more)[0].train_batches
    assert extended(make, tmp_path, [6, 5], "max_steps", "after the fit", **more) == whole


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_data_module_does(tmp_path: Path, name: str) -> None:
    def make() -> Any:
        return EVERY[name](limit_train=40, cache_dir=str(tmp_path / "cache"))

    options = {"accumulate_grad_batches": 2, "max_epochs": 2}
    whole = run(make, tmp_path / "whole", None, **options)[0].train_batches
    assert len(whole) >= 8
    assert extended(make, tmp_path, [2, len(whole) // 2], "max_steps", "after the fit", **options) == whole


def test_a_stop_within_a_step_goes_back_to_its_beginning(tmp_path: Path) -> None:
    def make() -> Any:
        return EVERY["glue"](limit_train=40, cache_dir=str(tmp_path / "cache"))

    options = {"accumulate_grad_batches": 4, "max_epochs": 2}
    whole = run(make, tmp_path / "whole", None, **options)[0].train_batches
    seen = extended(make, tmp_path, [6], "should_stop", "after the fit", **options)
    assert seen == whole[:6] + whole[4:]
    assert extended(make, tmp_path / "early", [2], "should_stop", "after the fit", **options) == whole[:2] + whole


@pytest.mark.parametrize("limit_val_batches", [0, 2])
def test_a_finished_epoch_stays_finished(tmp_path: Path, limit_val_batches: int) -> None:
    def make() -> Any:
        return EVERY["glue"](limit_train=40, cache_dir=str(tmp_path / "cache"))

    options = {"limit_val_batches": limit_val_batches}
    whole = run(make, tmp_path / "whole", None, **options)[0].train_batches
    assert extended(make, tmp_path, [10, 10, 10], "max_steps", "after the fit", max_steps=30, **options) == whole
    loops = torch.load(tmp_path / "whole" / "saved" / "after.ckpt", weights_only=True)["loops"]["fit_loop"]
    assert resume_closed_epoch(loops, 1, -1) is None
