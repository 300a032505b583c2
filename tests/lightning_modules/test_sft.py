"""SFT: packed equals padded equals transformers' own loss; accumulation, nesting, two processes, and resume in mid-epoch."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything

from fulgurite.adapters import LoRA
from fulgurite.datamodules import SFTDataModule, UltraLinkDataModule
from fulgurite.lightning_modules import SFTModule
from tests.lightning_modules.ddp.processes import run_script
from tests.lightning_modules.recording import Losses

OPTIONS = {"path": "builtin", "tokenizer": "playground", "max_length": 256, "limit_train": 40}


def module(**options):
    return SFTModule("playground", **{"learning_rate": 1e-2, "lr_schedule": "constant", "warmup_ratio": 0.0, **options})


class FirstGradients(LightningModule):
    """A user's module around ours; keeps the gradients of the first optimizer step."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, None

    def setup(self, stage):
        self.inner._trainer = self.trainer
        self.inner.setup(stage)

    def configure_model(self):
        self.inner.configure_model()

    def training_step(self, batch, batch_idx):
        return self.inner.training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.inner.network.parameters() if p.requires_grad], lr=1e-3)

    def on_before_optimizer_step(self, optimizer):
        if self.seen is None:
            self.seen = {n: p.grad.clone() for n, p in self.inner.network.named_parameters() if p.grad is not None}


def first_gradients(make_trainer, data, accumulate):
    seed_everything(0)
    outer = FirstGradients(module())
    make_trainer(limit_val_batches=0, max_steps=1, accumulate_grad_batches=accumulate, precision="64-true").fit(
        outer, data
    )
    return outer.seen


@pytest.mark.parametrize("packing", [True, False])
def test_accumulation_over_uneven_batches_equals_one_large_batch_also_when_nested(make_trainer, packing):
    small = first_gradients(make_trainer, SFTDataModule(**OPTIONS, packing=packing, batch_size=1), 3)
    large = first_gradients(make_trainer, SFTDataModule(**OPTIONS, packing=packing, batch_size=3), 1)
    assert small.keys() == large.keys() and len(small) > 10
    norm = sum(float(g.square().sum()) for g in large.values()) ** 0.5
    error = sum(float((small[n] - large[n]).square().sum()) for n in large) ** 0.5
    assert norm > 1e-3 and error <= 1e-6 * norm


@pytest.mark.slow
def test_packed_and_padded_rows_give_the_loss_of_transformers_itself(make_trainer):
    losses = {}
    for packing in (True, False):
        data = SFTDataModule(**OPTIONS, packing=packing, batch_size=100)
        trained = module(learning_rate=1e-12)
        seen = Losses()
        make_trainer(seen, limit_val_batches=0, max_steps=1).fit(trained, data)
        losses[packing] = seen.values[0]
        batch = next(iter(data.train_dataloader()))
        if not packing:
            rows = [
                (i[m.bool()], y[m.bool()])
                for i, m, y in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
            ]
    with torch.no_grad():
        alone = [(trained.network(input_ids=i[None], labels=y[None]).loss, (y[1:] != -100).sum()) for i, y in rows]
    expected = sum(float(loss) * int(count) for loss, count in alone) / sum(int(count) for _, count in alone)
    assert losses[True] == pytest.approx(expected, rel=1e-5)
    assert losses[False] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_losses_per_language_add_up_to_the_loss(make_trainer):
    data = UltraLinkDataModule(path="builtin", max_length=256, limit_train=60, batch_size=2, val_fraction=0.2)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module(), data)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert set(data.tag_names) == {"en", "zh", "es", "ru", "fr"}
    rows = data._rows("val")
    weights = [int(rows.targets()[rows.tensors["tag"] == i].sum()) for i in range(5)]
    known = [(w, metrics[f"val_loss/{name}"]) for w, name in zip(weights, data.tag_names, strict=True) if w]
    assert len(known) > 1 and len({round(loss, 4) for _, loss in known}) == len(known)
    assert sum(w * loss for w, loss in known) / sum(weights) == pytest.approx(metrics["val_loss"], rel=1e-5)
    assert metrics["val_perplexity"] == pytest.approx(torch.tensor(metrics["val_loss"]).exp().item(), rel=1e-5)
    assert 0 < metrics["val_token_accuracy"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("crash_at", [3, 8], ids=["first epoch", "second epoch"])
def test_killed_and_resumed_with_packing_equals_uninterrupted(make_trainer, tmp_path, crash_at):
    def run(crash=None, checkpoint=None):
        losses = Losses(crash)
        made = SFTModule("playground", adapter=LoRA(rank=4, alpha=8, dropout=0.1), learning_rate=5e-3)
        trainer = make_trainer(losses, limit_val_batches=1)
        data = SFTDataModule(**OPTIONS, batch_size=1)
        if crash is None:
            trainer.fit(made, data, ckpt_path=checkpoint)
        else:
            with pytest.raises(RuntimeError, match="killed"):
                trainer.fit(made, data)
        return losses.values

    seed_everything(1)
    straight = run()
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    seed_everything(1)
    run(crash=crash_at)
    last = tmp_path / "checkpoints" / "last.ckpt"
    done = torch.load(last, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
    seed_everything(999)
    resumed = run(checkpoint=last)
    assert 0 < done < crash_at and len(set(straight)) == len(straight)
    assert resumed == straight[done:]


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_equal_one_with_packing(tmp_path):
    (one,), two = (run_script("ddp_sft_script.py", devices, tmp_path) for devices in (1, 2))
    together = [sum(pair) / 2 for pair in zip(two[0]["losses"], two[1]["losses"], strict=True)]
    assert len(together) >= 4
    assert together == pytest.approx(one["losses"], rel=1e-9)
    assert two[0]["weights"] == pytest.approx(one["weights"], rel=1e-9)
    assert two[0]["metrics"] == pytest.approx(one["metrics"], rel=1e-6, nan_ok=True)
    assert two[1]["metrics"] == pytest.approx(two[0]["metrics"], nan_ok=True)


def test_samples_of_a_template_in_brackets_are_text_not_markup(make_trainer, tmp_path, capsys):
    from fulgurite.callbacks import GenerationSamples

    data = SFTDataModule(**OPTIONS, template="mistral", batch_size=8)
    samples = GenerationSamples(count=1, max_new_tokens=4, folder=str(tmp_path))
    make_trainer(samples).validate(module(), data)
    assert "[/INST]" in capsys.readouterr().out
    (line,) = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert "[/INST]" in json.loads(line)["prompt"] and json.loads(line)["reference"]
