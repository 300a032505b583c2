"""What a GPU changes and a CPU can show: another default device while models are built, autocast, scaled gradients, late looks."""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.strategies import SingleDeviceStrategy

from fulgurite.adapters import APET, LoRA, SoRA, attach
from fulgurite.datamodules import GLUEDataModule, PETTasksDataModule, PreferenceDataModule, SFTDataModule
from fulgurite.lightning_modules import (
    APETModule,
    ClassificationModule,
    PreferenceModule,
    RewardModule,
    SFTModule,
    SoRAModule,
)
from tests.lightning_modules.fuser_cases import make_data as fused_data
from tests.lightning_modules.fuser_cases import make_module as fused_module
from tests.lightning_modules.fuser_cases import write_rows, write_specialist
from tests.lightning_modules.recording import Losses


class OtherDefault(SingleDeviceStrategy):
    """configure_model runs with another default device, as on a GPU; tensors made there without a device are of no use."""

    @contextmanager
    def tensor_init_context(self, empty_init=None):
        with super().tensor_init_context(empty_init), torch.device("meta"):
            yield


@pytest.fixture
def fit(make_trainer):
    def run(module, data, **options):
        losses = Losses()
        trainer = make_trainer(
            losses,
            strategy=OtherDefault(torch.device("cpu")),
            max_epochs=1,
            limit_train_batches=2,
            limit_val_batches=2,
            **options,
        )
        seed_everything(0, verbose=False)
        trainer.fit(module, data)
        assert all(p.device.type == "cpu" for p in module.parameters())
        assert len(losses.values) == 2 and all(torch.isfinite(torch.tensor(losses.values)))

    return run


def sentences():
    return GLUEDataModule("sst2", path="builtin", splits="train", limit_train=60, batch_size=8, max_length=32)


def chats(tmp_path, **options):
    options = {"batch_size": 2, "max_length": 64, "limit_train": 200, **options}
    return SFTDataModule("builtin", cache_dir=str(tmp_path / "cache"), **options)


def pairs(tmp_path, **options):
    options = {"batch_size": 2, "max_length": 256, "limit_train": 60, **options}
    return PreferenceDataModule("builtin", cache_dir=str(tmp_path / "cache"), **options)


@pytest.mark.parametrize("selection", ["uniform_scalar", "magnitude", "gradient", "tensor_greedy"])
def test_apet_is_built_under_another_default_device(fit, tiny_bert, selection):
    data = PETTasksDataModule("sst2", path="builtin", limit_train=60, limit_eval=12, batch_size=8, max_length=48)
    fit(APETModule(tiny_bert, budget=300, selection=selection, storage="indices", score_batches=2), data)


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2), SoRA(rank=2, dropout=0.1)], ids=["full", "lora", "sora"])
def test_classifiers_are_built_under_another_default_device(fit, tiny_bert, adapter):
    fit(ClassificationModule(tiny_bert, adapter=adapter), sentences())


@pytest.mark.slow
def test_language_models_are_built_under_another_default_device(fit, tmp_path):
    fit(SFTModule("playground", adapter=LoRA(rank=2), dtype="float32"), chats(tmp_path))
    fit(PreferenceModule("playground", adapter=LoRA(rank=2)), pairs(tmp_path))
    fit(PreferenceModule("playground", adapter=None, learning_rate=1e-5), pairs(tmp_path))
    fit(RewardModule("playground", adapter=LoRA(rank=2)), pairs(tmp_path))


def test_a_fused_model_is_built_under_another_default_device(fit, tmp_path):
    specialists = [write_specialist(tmp_path / str(seed), seed) for seed in range(3)]
    fit(fused_module(specialists, stage_steps=[1, 1]), fused_data(tmp_path, write_rows(tmp_path / "rows")))


def test_adapters_are_attached_under_another_default_device(plain_bert):
    """In a configure_model of somebody else."""
    from transformers import AutoModel

    for config in (LoRA(rank=2), SoRA(rank=2), APET(budget=50, selection="magnitude", storage="indices")):
        model = AutoModel.from_pretrained(plain_bert, dtype=torch.float32)
        with torch.device("meta"):
            attach(model, config)
            state = model.state_dict()
        assert {t.device.type for t in state.values() if isinstance(t, torch.Tensor)} == {"cpu"}


def test_kernels_belong_to_the_machine_and_not_to_the_checkpoint(make_trainer, tiny_bert, tmp_path):
    module = SoRAModule(tiny_bert, rank=2, kernels="torch")
    make_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(module, sentences())
    path = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert "kernels" not in checkpoint["hyper_parameters"]
    from fulgurite.commands.shared.checkpoint_files import load_module

    checkpoint["hyper_parameters"]["kernels"] = "triton"  # as earlier versions wrote it
    torch.save(checkpoint, path)
    loaded = load_module(path)
    assert loaded.kernels is None and loaded.network is not None


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [LoRA(rank=2), None], ids=["lora", "full"])
def test_a_cached_reference_is_the_policy_s_twin_under_autocast(make_trainer, tmp_path, adapter):
    """Before the first step both are one model: DPO's loss is log 2 and the accuracy 0.5, to the last bit."""

    def first(precision):
        losses = Losses()
        module = PreferenceModule("playground", adapter=adapter, learning_rate=1e-5, cache_reference=True)
        make_trainer(losses, precision=precision, max_steps=1, limit_val_batches=0).fit(module, pairs(tmp_path))
        return losses.values[0]

    assert first("bf16-mixed") == pytest.approx(first("32-true"), abs=1e-6) == pytest.approx(0.693147, abs=1e-5)
    assert len(list((tmp_path / "cache" / "reference").glob("*.safetensors"))) == 2, (
        "each precision has a file of its own"
    )


def test_a_late_look_names_the_first_bad_step_and_saves_nothing_behind_it(
    make_trainer, tiny_bert, tmp_path, monkeypatch
):
    """A GPU is asked at every log_every_n_steps and before a checkpoint is written; here the first three looks are blind."""
    module = SoRAModule(tiny_bert, rank=2, num_labels=2)
    looks = []
    look = SoRAModule._look_for_non_finite
    monkeypatch.setattr(
        SoRAModule, "_look_for_non_finite", lambda self: looks.append(1) or (len(looks) > 3 and look(self))
    )

    class InfiniteOnce(type(module.objective)):
        def __call__(self, network, batch):
            step = super().__call__(network, batch)
            return step._replace(loss_sum=step.loss_sum * float("inf")) if module.global_step == 1 else step

    module.objective = InfiniteOnce()
    with pytest.raises(FloatingPointError, match="the loss is inf at optimizer step 1, batch 1 of epoch 0"):
        make_trainer(max_epochs=1, limit_val_batches=0, enable_checkpointing=True).fit(module, sentences())
    assert len(looks) == 4


def test_stage_two_refuses_a_scaler_per_process(tmp_path):
    module = fused_module([write_specialist(tmp_path / "one", 1)], stage_steps=[1, 1])

    class Trainer:
        world_size, precision = 2, "16-mixed"

    module._trainer = Trainer()
    with pytest.raises(ValueError, match=r"precision 16-mixed.*bf16-mixed"):
        module.on_fit_start()


def test_a_fused_model_on_other_data_says_what_it_needs(tmp_path, make_trainer):
    module = fused_module([write_specialist(tmp_path / "one", 1)], stage_steps=[1])
    with pytest.raises(ValueError, match=r"no views of the specialists.*Give --data UltraChat2DataModule"):
        data = chats(tmp_path, tokenizer="playground")
        make_trainer(max_epochs=1, max_steps=1, limit_val_batches=0).fit(module, data)


def test_margins_asked_for_and_not_there_are_said(tmp_path, make_trainer):
    rows = tmp_path / "pairs.jsonl"
    line = '{{"prompt": "q{0}", "chosen": "a good answer {0}", "rejected": "no {0}"{1}}}\n'
    for extra, said in (("", True), (', "margin": 2.0', False)):
        rows.write_text("".join(line.format(i, extra) for i in range(12)))
        data = PreferenceDataModule(str(rows), cache_dir=str(tmp_path / f"cache{said}"), batch_size=2, val_fraction=0.2)
        module = RewardModule("playground", adapter=LoRA(rank=2), use_margin=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make_trainer(max_epochs=1, max_steps=2, limit_val_batches=0).fit(module, data)
        assert any("use_margin is set" in str(w.message) for w in caught) == said
