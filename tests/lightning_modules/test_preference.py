"""Preference training: rewards and losses against plain transformers, the reference's cache, resume, DDP, refusals."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import seed_everything

from fulgurite.adapters import LoRA, attach
from fulgurite.datamodules import PreferenceDataModule
from fulgurite.lightning_modules import PreferenceModule
from fulgurite.models import load_backbone
from tests.lightning_modules.ddp.processes import run_script
from tests.lightning_modules.recording import Losses

OPTIONS = {"path": "builtin", "tokenizer": "playground", "max_length": 256, "limit_train": 40}


def module(**options):
    defaults = {"adapter": LoRA(rank=4, alpha=8), "learning_rate": 1e-2, "lr_schedule": "constant", "warmup_ratio": 0.0}
    return PreferenceModule("playground", **{**defaults, **options})


def data(tmp_path, **options):
    return PreferenceDataModule(**{**OPTIONS, "batch_size": 2, "cache_dir": str(tmp_path / "cache"), **options})


def summed_log_prob(network, prompt, answer):
    ids = torch.tensor([prompt + answer])
    with torch.no_grad():
        logits = network(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None]).sum())


def paths(batch):
    """Prompt and answer of each completion of a batch of trees."""
    from fulgurite.data.trees.rows import path_to

    found = []
    for completion in range(len(batch["lengths"])):
        mine = batch["owner"] == completion
        found.append((path_to(batch, int(batch["sources"][mine][0])).tolist(), batch["targets"][mine].tolist()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("trees", [True, False])
def test_dpo_losses_equal_those_of_plain_forwards_pair_by_pair(make_trainer, tmp_path, trees):
    seed_everything(0)
    rows = data(tmp_path, trees=trees)
    trained = module()
    losses = Losses()
    make_trainer(losses, limit_val_batches=0, max_steps=2).fit(trained, rows)
    base = load_backbone(trained.backbone_folder, "causal_lm").model.eval()
    batch = next(iter(rows.train_dataloader()))
    assert losses.values[0] == pytest.approx(float(torch.tensor(2.0).log()), rel=1e-5)
    trained.network.eval()
    margins = []
    answers = paths(batch)
    for chosen, rejected in batch["pairs"].tolist():
        rho = [
            summed_log_prob(trained.network, *answers[i]) - summed_log_prob(base, *answers[i])
            for i in (chosen, rejected)
        ]
        margins.append(0.1 * (rho[0] - rho[1]))
    expected = -F.logsigmoid(torch.tensor(margins)).mean()
    with torch.no_grad():
        step = trained.objective(trained.network, batch)
    assert int(step.targets) == len(margins) > 5
    assert float(step.loss_sum / step.targets) == pytest.approx(float(expected), rel=1e-4)
    assert abs(float(expected) - 0.6931) > 0.05, "two steps were taken: the loss has moved"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("dpo", "pairs"),
        ("nca", "pairs"),
        ("simpo", "pairs"),
        (["dpo", "sft"], "pairs"),
        ("kto", "labels"),
        ("infonca", "groups"),
    ],
)
def test_every_kind_of_loss_learns_the_preference(make_trainer, tmp_path, loss, kind):
    seed_everything(0)
    schema = {"schema": "ultrafeedback"} if kind == "groups" else {}
    rows = data(tmp_path, objective_kind=kind, limit_train=120, val_fraction=0.15, **schema)
    trained = module(
        loss=loss, loss_weights=[1.0, 0.2] if len(loss) == 2 else None, learning_rate=3e-3, temperature=1.0
    )
    trainer = make_trainer(max_epochs=2, num_sanity_val_steps=0)
    trainer.fit(trained, rows)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if kind == "labels":
        assert metrics["val_rewards/desirable"] > metrics["val_rewards/undesirable"] + 0.1
        assert metrics["val_kl"] >= 0
    else:
        assert metrics["val_rewards/accuracies"] > 0.6
        assert (
            metrics["val_rewards/accuracies_low"]
            < metrics["val_rewards/accuracies"]
            < metrics["val_rewards/accuracies_high"]
        )
        assert metrics["val_rewards/margins"] == pytest.approx(
            metrics["val_rewards/chosen"] - metrics["val_rewards/rejected"], abs=1e-4
        )


@pytest.mark.slow
def test_the_reference_is_computed_once_survives_a_restart_and_is_refused_when_stale(
    make_trainer, tmp_path, monkeypatch
):
    from fulgurite.lightning_modules.reference import whole_pass as reference_pass

    passes = []
    original = reference_pass._run
    monkeypatch.setattr(reference_pass, "_run", lambda *args: passes.append(1) or original(*args))

    def run(**options):
        losses = Losses()
        seed_everything(0)
        made = module(**options)
        make_trainer(losses, limit_val_batches=0, max_steps=3).fit(made, data(tmp_path))
        return losses.values

    first = run()
    assert passes == [1]
    assert run() == first and passes == [1], "the second run read the file"
    assert run(cache_reference=False) == pytest.approx(first, rel=1e-4) and passes == [1]
    (file,) = (tmp_path / "cache" / "reference").glob("*.safetensors")
    assert run(reference_cache=str(file)) == first
    with pytest.raises(ValueError, match="other weights"):
        run(reference_cache=str(file), dtype="bfloat16")
    with pytest.raises(ValueError, match="lacks completions"):
        make_trainer(max_steps=1).fit(module(reference_cache=str(file)), data(tmp_path, template="ultrachat"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        run(reference_cache=str(file))


@pytest.mark.slow
def test_without_a_cache_and_without_an_adapter_a_second_copy_is_the_reference(make_trainer, tmp_path):
    runs = []
    for cached in (True, False):
        seed_everything(0)
        losses = Losses()
        made = module(adapter=None, learning_rate=1e-4, cache_reference=cached)
        make_trainer(losses, limit_val_batches=0, max_steps=3).fit(made, data(tmp_path))
        runs.append(losses.values)
        assert not any("reference" in key for key in made.state_dict())
    assert runs[0] == pytest.approx(runs[1], rel=1e-5) and runs[0][2] < runs[0][0] - 1e-3


@pytest.mark.slow
def test_an_sft_adapter_is_merged_first_and_belongs_to_the_reference(make_trainer, tmp_path):
    base = load_backbone(module().backbone_folder, "causal_lm").model
    adapter = attach(base, LoRA(rank=2, alpha=4))
    with torch.no_grad():
        for branch in adapter.branches.values():
            branch.lora_b.normal_(std=0.2)
    adapter.save(tmp_path / "sft")
    losses = Losses()
    made = module(init_adapter=str(tmp_path / "sft"))
    make_trainer(losses, limit_val_batches=0, max_steps=1).fit(made, data(tmp_path))
    assert losses.values[0] == pytest.approx(0.693147, rel=1e-4), "policy and reference begin equal"
    with torch.no_grad(), made.adapter.disabled():
        ids = torch.arange(5, 15)[None]
        assert torch.allclose(made.network(ids).logits, base.eval()(ids).logits, atol=1e-4)


def test_dropout_is_off(make_trainer, tmp_path):
    made = module(adapter=LoRA(rank=4, alpha=8, dropout=0.5))
    losses = Losses()
    make_trainer(losses, limit_val_batches=0, max_steps=1).fit(made, data(tmp_path))
    assert losses.values[0] == pytest.approx(0.693147, rel=1e-5)
    assert all(branch.dropout == 0 for branch in made.adapter.branches.values())


def test_refusals(make_trainer, tmp_path):
    with pytest.raises(ValueError, match="objective_kind labels"):
        make_trainer(max_steps=1).fit(module(loss="kto"), data(tmp_path, objective_kind="pairs"))
    with pytest.raises(ValueError, match="has no reference"):
        module(loss="simpo", reference_model="x")
    with pytest.raises(ValueError, match="no loss is called"):
        module(loss="dpoo")
    with pytest.raises(ValueError, match="one or the other"):
        module(cache_reference=False, reference_cache="x")


@pytest.mark.slow
@pytest.mark.parametrize("crash_at", [4, 9], ids=["first epoch", "second epoch"])
def test_killed_and_resumed_equals_uninterrupted(make_trainer, tmp_path, crash_at):
    def run(crash=None, checkpoint=None):
        losses = Losses(crash)
        trainer = make_trainer(losses, limit_val_batches=1)
        rows = data(tmp_path, batch_size=1, token_budget=256, limit_train=60)
        if crash is None:
            trainer.fit(module(), rows, ckpt_path=checkpoint)
        else:
            with pytest.raises(RuntimeError, match="killed"):
                trainer.fit(module(), rows)
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
    assert 0 < done < crash_at < len(straight) and len(set(straight)) > len(straight) // 2
    assert resumed == straight[done:]


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_two_processes_equal_one(tmp_path, loss):
    (one,), two = (run_script("ddp_preference_script.py", devices, tmp_path, loss) for devices in (1, 2))
    together = [sum(pair) / 2 for pair in zip(two[0]["losses"], two[1]["losses"], strict=True)]
    assert len(together) >= 4
    assert together == pytest.approx(one["losses"], rel=1e-7)
    assert two[0]["weights"] == pytest.approx(one["weights"], rel=1e-7)
    assert two[0]["metrics"] == pytest.approx(one["metrics"], rel=1e-5)
