"""Before step 0: float16 is not trained, a rate that the schedule would drop is refused; bfloat16 trains in float32."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from transformers import AutoModelForCausalLM, AutoTokenizer

from fulgurite.adapters import LoRA, SoRA
from fulgurite.data.playground.registry import BACKBONES
from fulgurite.datamodules import GLUEDataModule, SFTDataModule
from fulgurite.lightning_modules import ClassificationModule, SFTModule, SoRAModule
from fulgurite.lightning_modules.checks.before_training import keep_what_autocast_casts, refuse_float16
from fulgurite.optim import ProximalAdamW


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


def test_weights_that_autocast_would_round_back_are_given_masters():
    def kept(network, rate=5e-7, precision="bf16-mixed", adapted=False, optimizer=ProximalAdamW):
        trained = [p for p in network.parameters() if p.requires_grad]
        trainer = SimpleNamespace(precision=precision, optimizers=[optimizer(trained)] if trained else [])
        return keep_what_autocast_casts("PreferenceModule", network, adapted, rate, trainer)

    published = torch.nn.Linear(4, 2).bfloat16().float()  # as a model that came in bfloat16 and is trained in float32
    assert kept(published) == kept(published, 1e-5) == [published.weight]  # a bias is added in float32
    with pytest.warns(UserWarning, match="most of the 10 trained numbers.*5e-07 and precision is bf16-mixed.*32-true"):
        assert kept(published, adapted=True) == []
    with pytest.warns(UserWarning, match="most of the 10 trained numbers"):
        assert kept(published, optimizer=torch.optim.SGD) == []
    factors = torch.nn.ParameterList([torch.randn(2, 4), torch.zeros(8, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kept(published, 1e-3) == kept(published, precision="32-true") == []
        assert kept(torch.nn.Linear(4, 2)) == []  # off bfloat16's numbers
        assert kept(torch.nn.Linear(4, 2).bfloat16()) == []  # has masters anyway
        assert kept(factors, adapted=True) == []
        assert kept(published.requires_grad_(False)) == []  # an adapter's base


@pytest.mark.slow
def test_masters_under_autocast_survive_a_resume(make_trainer, tmp_path):
    source = BACKBONES["playground"]
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "base")

    def run(folder, *, steps, checkpoint=None):
        torch.manual_seed(0)
        module = SFTModule(str(tmp_path / "base"), learning_rate=1e-5, lr_schedule="constant", warmup_ratio=0.0)
        options = {"max_epochs": None, "max_steps": steps, "precision": "bf16-mixed", "limit_val_batches": 0}
        trainer = make_trainer(default_root_dir=folder, **options)
        trainer.fit(module, chats(tmp_path), ckpt_path=checkpoint)
        trainer.save_checkpoint(folder / "end.ckpt")
        return dict(module.network.named_parameters()), trainer.optimizers[0].state

    for name in ("whole", "part"):
        (tmp_path / name).mkdir()
    whole, states = run(tmp_path / "whole", steps=4)
    run(tmp_path / "part", steps=2)
    resumed, again = run(tmp_path / "part", steps=4, checkpoint=tmp_path / "part" / "end.ckpt")
    matrices = [name for name, p in whole.items() if p.dim() > 1]
    assert matrices
    for name, p in whole.items():
        assert torch.equal(p, resumed[name]), name
        if name in matrices:
            assert torch.equal(states[p]["master"], again[resumed[name]]["master"])
            assert torch.equal(p, p.bfloat16().float()) and not torch.equal(p, states[p]["master"])
