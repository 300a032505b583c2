"""Pieces inside somebody else's code: a foreign LightningModule (fit, resume, test) and transformers' own Trainer."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from torch.utils.data import DataLoader

from fulgurite.adapters import SoRA, attach, find_adapters
from fulgurite.callbacks import SparsityReport, Throughput
from fulgurite.datamodules import GLUEDataModule
from fulgurite.lightning_modules import SoRAModule
from fulgurite.optim import ProximalAdamW
from tests.lightning_modules.recording import Losses


class Foreign(LightningModule):
    """What a user writes: a model of their own somewhere inside, our adapter, optimizer and callbacks."""

    def __init__(self, backbone: str, threshold: float = 0.08) -> None:
        super().__init__()
        self.save_hyperparameters()
        from transformers import AutoModel

        encoder = AutoModel.from_pretrained(backbone, dtype=torch.float32)
        self.parts = torch.nn.ModuleDict({"encoder": encoder, "head": torch.nn.Linear(32, 2)})
        self.adapter = attach(encoder, SoRA(rank=4, threshold=threshold, dropout=0.1, patience=3, look_every=2))

    def step(self, batch):
        hidden = self.parts["encoder"](batch["input_ids"], batch["attention_mask"]).last_hidden_state[:, 0]
        return torch.nn.functional.cross_entropy(self.parts["head"](hidden), batch["labels"])

    def training_step(self, batch, batch_idx):
        return self.step(batch)

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.step(batch), on_epoch=True, batch_size=len(batch["labels"]))

    def configure_optimizers(self):
        head = {"params": list(self.parts["head"].parameters()), "lr": 5e-3}
        optimizer = ProximalAdamW([*self.adapter.param_groups(lr=5e-3), head])
        self.adapter.watch(optimizer)
        return optimizer


def data(tokenizer):
    return GLUEDataModule(
        "sst2", path="builtin", splits="train", limit_train=60, batch_size=8, max_length=32, tokenizer=tokenizer
    )


@pytest.mark.slow
def test_foreign_module_fits_resumes_and_tests(make_trainer, tiny_bert, tmp_path):
    def run(module, crash_at=None, ckpt_path=None):
        losses = Losses(crash_at)
        trainer = make_trainer(losses, Throughput(), SparsityReport(), limit_val_batches=0)
        if crash_at is None:
            trainer.fit(module, data(tiny_bert), ckpt_path=ckpt_path)
        else:
            shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
            with pytest.raises(RuntimeError, match="killed"):
                trainer.fit(module, data(tiny_bert), ckpt_path=ckpt_path)
        return losses.values, trainer

    seed_everything(1)
    straight_module = Foreign(tiny_bert)
    straight, trainer = run(straight_module)
    tested = trainer.test(straight_module, data(tiny_bert), verbose=False)
    seed_everything(1)
    run(Foreign(tiny_bert), crash_at=11)
    last = tmp_path / "checkpoints" / "last.ckpt"
    keys = torch.load(last, weights_only=True)["state_dict"]
    assert all(".branches." in key or key.startswith("parts.head") for key in keys)
    resumed_module = Foreign(tiny_bert)
    resumed, trainer = run(resumed_module, ckpt_path=last)
    assert resumed == straight[-len(resumed) :] and len(resumed) == 6
    assert min(row.live for row in resumed_module.adapter.rank_table()) < 4
    assert trainer.test(resumed_module, data(tiny_bert), verbose=False) == tested
    fresh = Foreign(tiny_bert)
    written = trainer.checkpoint_callback.last_model_path  # beside last.ckpt of the run that was killed
    assert trainer.test(fresh, data(tiny_bert), ckpt_path=written, verbose=False) == tested
    assert (tmp_path / "sparsity.png").stat().st_size > 10_000


def test_our_module_inside_a_foreign_one(make_trainer, tiny_bert):
    class Outer(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = SoRAModule(tiny_bert, rank=4, num_labels=2)
            self.inner.configure_model()

        def training_step(self, batch, batch_idx):
            return self.inner.training_step(batch, batch_idx)

        def configure_optimizers(self):
            return ProximalAdamW(self.inner.adapter.param_groups(lr=5e-3))

    seed_everything(0)
    losses = Losses()
    outer = Outer()
    make_trainer(losses, limit_val_batches=0, accumulate_grad_batches=2).fit(outer, data(tiny_bert))
    assert len(losses.values) == 16 and all(0 < value < 1 for value in losses.values), (
        "half a mean loss: the window has two"
    )
    assert [a.name for a in find_adapters(outer)] == ["default"]


@pytest.mark.slow
def test_trains_under_transformers_own_trainer(tiny_bert, tmp_path):
    from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2, dtype=torch.float32)
    before = copy.deepcopy(model.state_dict())
    adapter = attach(model, SoRA(rank=4, threshold=0.05, patience=3, look_every=2), train=("classifier",))
    optimizer = ProximalAdamW(adapter.param_groups(lr=5e-3))
    adapter.watch(optimizer)
    module = data(tiny_bert)
    module.setup("fit")
    batches = [{k: v for k, v in b.items() if k != "tokens_in_window"} for b in module.train_dataloader()]
    rows = [{k: v[i] for k, v in b.items()} for b in batches for i in range(len(b["labels"]))]
    losses = []

    class Keep(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            losses.append(logs.get("loss"))

    def collate(items):
        length = max(len(item["input_ids"]) for item in items)
        pad = lambda t: torch.nn.functional.pad(t, (0, length - len(t)))  # noqa: E731
        stacked = {k: torch.stack([pad(i[k]) for i in items]) for k in ("input_ids", "attention_mask")}
        return {**stacked, "labels": torch.stack([i["labels"] for i in items])}

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=4,
        per_device_train_batch_size=8,
        logging_steps=8,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        max_grad_norm=1.0,
    )
    Trainer(
        model, arguments, train_dataset=rows, data_collator=collate, optimizers=(optimizer, None), callbacks=[Keep()]
    ).train()
    table = adapter.rank_table()
    assert 0 < sum(row.nonzero for row in table) < 48 and min(row.live for row in table) < 4
    assert adapter._clock.steps == 32
    adapter.detach()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items() if not k.startswith("classifier"))
    assert not torch.equal(before["classifier.weight"], model.classifier.weight)


def test_dataloader_of_a_foreign_kind_warns_about_uneven_batches(make_trainer, tiny_bert):
    module = SoRAModule(tiny_bert, rank=2, num_labels=2)
    rows = [
        {
            "input_ids": torch.randint(5, 90, (6,)),
            "attention_mask": torch.ones(6, dtype=torch.long),
            "labels": torch.tensor(i % 2),
        }
        for i in range(16)
    ]
    with pytest.warns(UserWarning, match="no 'tokens_in_window'"):
        make_trainer(limit_val_batches=0, accumulate_grad_batches=2, max_epochs=1).fit(module, DataLoader(rows, 4))
