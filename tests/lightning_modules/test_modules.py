"""The modules themselves: checkpoints from Python, hyperparameters, refusals, accumulation, tasks."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import seed_everything

from fulgurite.adapters import LoRA, SoRA
from fulgurite.datamodules import FilesDataModule, GLUEDataModule
from fulgurite.lightning_modules import ClassificationModule, FinetuneModule, SFTModule, SoRAModule
from fulgurite.lightning_modules.checks.hyperparameters import remember
from tests.lightning_modules.recording import Losses


def data(task="sst2", **options):
    defaults = {"path": "builtin", "splits": "train", "limit_train": 32, "batch_size": 8, "max_length": 32}
    return GLUEDataModule(task, **{**defaults, **options})


@pytest.mark.parametrize(
    "make",
    [
        lambda b: SoRAModule(b, rank=2, schedule=[0.0, 1e-3], stage_epochs=1),
        lambda b: ClassificationModule(b, adapter=LoRA(rank=3, alpha=6.0)),
        lambda b: ClassificationModule(b, adapter=SoRA(rank=3)),
        lambda b: ClassificationModule(b),
    ],
    ids=["SoRAModule", "LoRA", "SoRA", "full"],
)
def test_load_from_checkpoint_and_test(make, make_trainer, tiny_bert, tmp_path):
    seed_everything(0)
    module = make(tiny_bert)
    trainer = make_trainer(limit_val_batches=1)
    trainer.fit(module, data())
    expected = trainer.test(module, data(), verbose=False)
    path = tmp_path / "checkpoints" / "last.ckpt"
    loaded = type(module).load_from_checkpoint(path)
    assert loaded.num_labels == 2 and loaded.adapter_config == module.adapter_config
    assert make_trainer().test(loaded, data(), verbose=False) == expected


def test_a_subclass_with_its_own_init_loads_as_lightning_does_it(make_trainer, tiny_bert, tmp_path):
    class Mine(SoRAModule):
        def __init__(self, backbone: str, extra: int = 3) -> None:
            super().__init__(backbone, rank=2)
            self.save_hyperparameters()
            self.extra = extra

    assert "_class_path" not in Mine(tiny_bert).hparams
    make_trainer(max_epochs=1, limit_val_batches=0).fit(Mine(tiny_bert, extra=5), data())
    assert Mine.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt").extra == 5


def test_untrained_weights_are_not_tested(make_trainer, tiny_bert):
    with pytest.raises(RuntimeError, match=r"untrained weights.*--ckpt_path"):
        make_trainer().test(SoRAModule(tiny_bert, rank=2), data())


def test_first_non_finite_loss_stops_the_run(make_trainer, tiny_bert):
    module = SoRAModule(tiny_bert, rank=2, num_labels=2)
    module.configure_model()
    with torch.no_grad():
        module.network.classifier.bias.fill_(float("nan"))
    before = {n: p.clone() for n, p in module.network.named_parameters()}
    with pytest.raises(FloatingPointError, match="loss is nan at optimizer step 0, batch 0 of epoch 0"):
        make_trainer(limit_val_batches=0).fit(module, data())
    assert all(torch.equal(before[n], p) or before[n].isnan().any() for n, p in module.network.named_parameters())


def test_accumulation_over_uneven_batches_equals_one_large_batch(make_trainer, plain_bert):
    """30 rows in batches of 4 (the last has 2): 8 micro-batches accumulated equal one batch of 30."""

    def gradient_run(batch_size, accumulate):
        seed_everything(3)
        module = ClassificationModule(plain_bert, learning_rate=1e-3, lr_schedule="constant", warmup_ratio=0.0)
        losses = Losses()
        options = {
            "accumulate_grad_batches": accumulate,
            "max_epochs": 3,
            "precision": "64-true",
            "limit_val_batches": 0,
        }
        make_trainer(losses, **options).fit(module, data(limit_train=30, batch_size=batch_size))
        return module, losses

    large, large_losses = gradient_run(30, 1)
    small, small_losses = gradient_run(4, 8)
    sums = [sum(small_losses.values[i : i + 8]) for i in range(0, 24, 8)]
    assert sums == pytest.approx(large_losses.values, rel=1e-6)
    for a, b in zip(large.network.parameters(), small.network.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_regression_and_language_modelling(make_trainer, tiny_bert, tmp_path):
    seed_everything(0)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(SoRAModule(tiny_bert, task="regression", rank=2), data("stsb"))
    assert {"val_pearson", "val_spearman", "val_loss"} <= set(trainer.callback_metrics)
    module = SFTModule("playground", adapter=LoRA(rank=4), learning_rate=2e-3)
    rows = FilesDataModule("builtin", task_type="causal_lm", documents=200, batch_size=8, max_length=64)
    losses = Losses()
    trainer = make_trainer(losses, max_epochs=1)
    trainer.fit(module, rows)
    assert losses.values[-1] < losses.values[0] + 0.5
    assert float(trainer.callback_metrics["val_perplexity"]) == pytest.approx(
        float(trainer.callback_metrics["val_loss"].exp()), rel=1e-5
    )


def test_gradient_checkpointing_changes_nothing_but_memory(make_trainer, plain_bert):
    runs = []
    for checkpointing in (False, True):
        seed_everything(0)
        losses = Losses()
        module = SoRAModule(plain_bert, rank=2, gradient_checkpointing=checkpointing)
        make_trainer(losses, max_epochs=1, limit_val_batches=0).fit(module, data())
        runs.append(losses.values)
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda b: SoRAModule(b, task="translation"), "task='translation'; allowed are 'classification'"),
        (lambda b: SoRAModule(b, lr_schedule="step"), "lr_schedule='step'"),
        (lambda b: SoRAModule(b, learning_rate=0.0), "learning_rate=0.0"),
        (lambda b: SoRAModule(b, learning_rate=float("nan")), "learning_rate=nan"),
        (lambda b: SoRAModule(b, head_learning_rate=-1.0), "head_learning_rate=-1.0"),
        (lambda b: SoRAModule(b, gate_learning_rate=float("inf")), "gate_learning_rate=inf"),
        (lambda b: SoRAModule(b, weight_decay=float("nan")), "weight_decay=nan"),
        (lambda b: SoRAModule(b, rank=0), "rank=0"),
        (lambda b: SoRAModule(b, schedule="linear"), "max_threshold"),
        (lambda b: SoRAModule(b, stage_epochs=0), "stage_epochs=0"),
    ],
)
def test_bad_options(make, words, tiny_bert):
    with pytest.raises(ValueError, match=words):
        make(tiny_bert)


@pytest.mark.parametrize(
    ("make", "rows", "words"),
    [
        (lambda b: SoRAModule(b, num_labels=5, rank=2), {}, "num_labels=5, but GLUEDataModule has 2 classes"),
        (lambda b: SoRAModule(b, rank=2), {"task": "stsb"}, "Give --model.task regression"),
        (lambda b: SoRAModule(b, rank=64), {}, r"rank=64 is larger than .*\(32x32\)"),
        (lambda b: SoRAModule("no/such/model", rank=2), {"tokenizer": "playground"}, "neither a folder nor a model"),
        (lambda b: SoRAModule(b, rank=2, kernels="triton"), {}, "no GPU|cannot|needs a GPU"),
        (
            lambda b: SoRAModule(b, rank=2, schedule=[0.0, 1e-3], stage_epochs=15),
            {},
            "need trainer.max_epochs of at least 16",
        ),
    ],
)
def test_bad_combinations(make, rows, words, make_trainer, tiny_bert):
    if "GPU" in words and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises((ValueError, RuntimeError, FileNotFoundError), match=words):
        make_trainer().fit(make(tiny_bert), data(**rows))


def test_remember_keeps_plain_data_only():
    class Holder(FinetuneModule):
        def __init__(self, adapter=None, items=()):
            arguments = dict(locals())
            super().__init__(task="classification", backbone="x", adapter=adapter)
            remember(self, arguments, Holder)

    saved = dict(Holder(LoRA(rank=2), (1, 2)).hparams)
    assert saved["adapter"]["class_path"].endswith(".LoRA") and saved["adapter"]["init_args"]["rank"] == 2
    assert saved["items"] == [1, 2] and saved["_class_path"].endswith("Holder")
