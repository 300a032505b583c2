"""Before step 0: float16 is not trained, a rate that the schedule would drop is refused; bfloat16 trains in float32."""

from __future__ import annotations

import warnings

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner

from fulgurite.adapters import LoRA, SoRA
from fulgurite.datamodules import GLUEDataModule, SFTDataModule
from fulgurite.lightning_modules import ClassificationModule, SFTModule, SoRAModule
from fulgurite.lightning_modules.checks.before_training import refuse_float16, warn_of_small_rate


def chats(folder, **options):
    cache = str(folder / "cache")
    return SFTDataModule("builtin", tokenizer="playground", cache_dir=cache, limit_train=16, batch_size=4, **options)


@pytest.mark.parametrize(
    ("dtype", "precision", "adapter", "words"),
    [
        ("float16", "32-true", None, "weights in float16 would be trained"),
        ("float16", "32-true", LoRA(rank=2), "the base is float16 and precision 32-true has no scaler"),
        ("float32", "16-true", None, "weights in float16 would be trained"),
        ("float32", "16-true", LoRA(rank=2), "has no scaler"),
    ],
)
def test_training_in_float16_is_refused(dtype, precision, adapter, words, make_trainer, tmp_path):
    module = SFTModule("playground", dtype=dtype, adapter=adapter)
    with pytest.raises(ValueError, match=f"SFTModule: .*{words}.*bfloat16"):
        make_trainer(max_steps=1, precision=precision).fit(module, chats(tmp_path))


class Trainer:
    precision = "16-mixed"

    class precision_plugin:
        scaler = object()


def test_a_scaler_takes_float32_weights_and_adapters_on_a_float16_base():
    wide, narrow = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).half().requires_grad_(False)
    network = torch.nn.Sequential(wide, narrow)
    refuse_float16("M", network, wide.parameters(), Trainer)
    with pytest.raises(ValueError, match="would be trained"):
        refuse_float16("M", network, network.parameters(), Trainer)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [SoRA(rank=2), LoRA(rank=2), None], ids=["SoRA", "LoRA", "full"])
@pytest.mark.parametrize("form", ["dtype", "bf16-true", "bf16-mixed"])
def test_what_is_trained_in_bfloat16_is_held_in_float32(form, adapter, make_trainer, tmp_path):
    module = SFTModule(
        "playground", adapter=adapter, dtype="bfloat16" if form == "dtype" else "float32", learning_rate=1e-5
    )
    trainer = make_trainer(max_steps=2, precision="32-true" if form == "dtype" else form, limit_val_batches=0)
    trainer.fit(module, chats(tmp_path))
    state = trainer.optimizers[0].state
    for p in module.network.parameters():
        if p.requires_grad:
            assert p.dtype == torch.float32 or state[p]["master"].dtype == torch.float32
            assert adapter is None or p.dtype == torch.float32


def test_the_rate_finders_callback_is_refused_by_name(make_trainer, tmp_path):
    class Mine(LearningRateFinder):
        pass

    for module in (SFTModule("playground", adapter=LoRA(rank=2)), SoRAModule("playground", task="causal_lm", rank=2)):
        with pytest.raises(ValueError, match=f"{type(module).__name__}: Mine changes the learning rate"):
            make_trainer(Mine(num_training_steps=3), max_steps=2).fit(module, chats(tmp_path))


def test_the_tuners_rate_is_used_in_every_step_of_the_next_fit(make_trainer, tmp_path, plain_bert):
    class Rates(Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, *_):
            self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    module = ClassificationModule(plain_bert, lr_schedule="constant", warmup_ratio=0.0)
    data = GLUEDataModule(
        task="sst2", path="builtin", tokenizer=plain_bert, limit_train=32, batch_size=2, cache_dir=str(tmp_path / "c")
    )
    found = Tuner(make_trainer(max_steps=8)).lr_find(module, data, num_training=8, early_stop_threshold=None)
    module.learning_rate = rate = found.results["lr"][3]
    rates = Rates()
    make_trainer(rates, max_steps=3, limit_val_batches=0).fit(module, data)
    assert rates.seen and rates.seen == pytest.approx([rate] * len(rates.seen))


def test_rates_that_autocast_rounds_away_are_named():
    published = torch.nn.Linear(4, 2).bfloat16().float()  # as a model that came in bfloat16 and is trained in float32
    with pytest.warns(
        UserWarning, match="most of the 10 trained weights.*5e-07 and precision is bf16-mixed.*dtype bfloat16"
    ):
        warn_of_small_rate("PreferenceModule", published, 5e-7, "bf16-mixed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_small_rate("SFTModule", published, 1e-5, "bf16-mixed")
        warn_of_small_rate("PreferenceModule", published, 5e-7, "32-true")
        warn_of_small_rate("PreferenceModule", torch.nn.Linear(4, 2), 5e-7, "bf16-mixed")  # off bfloat16's numbers
        warn_of_small_rate("PreferenceModule", torch.nn.Linear(4, 2).bfloat16(), 5e-7, "bf16-mixed")  # has masters
        warn_of_small_rate("PreferenceModule", published.requires_grad_(False), 5e-7, "bf16-mixed")  # an adapter's base
