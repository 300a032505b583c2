"""CPO's two stages: the second begins at the first, what travels with the weights, resume, and refusals."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from lightning.pytorch import seed_everything

from fulgurite.adapters import APET, LoRA
from fulgurite.data.conditions.objectives import OBJECTIVES, Objectives
from fulgurite.data.playground.rows.levels import level_rows
from fulgurite.datamodules import CPODataModule, SFTDataModule
from fulgurite.lightning_modules import CPOModule
from fulgurite.models import load_backbone
from tests.lightning_modules.recording import Losses


def module(stage="cpsft", **options):
    defaults = {"adapter": LoRA(rank=4, alpha=8), "learning_rate": 1e-2, "lr_schedule": "constant", "warmup_ratio": 0.0}
    return CPOModule("playground", stage, **{**defaults, **options})


def data(tmp_path, stage="cpsft", count=25, **options):
    path = tmp_path / f"rows-{count}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in level_rows("train", count=count)))
    defaults = {"path": str(path), "tokenizer": "playground", "max_length": 256, "val_fraction": 0.2, "batch_size": 2}
    defaults["on_bad_row"] = "skip"  # some rows of the playground have no rating of honesty
    return CPODataModule(stage, **{**defaults, "cache_dir": str(tmp_path / "cache"), **options})


FIRST = {"whole network": {"adapter": None}, "sparse": {"adapter": APET(budget=2000)}}


def first_stage(make_trainer, tmp_path, **options):
    seed_everything(0)
    trained = module(**options)
    trainer = make_trainer(max_steps=3, limit_val_batches=0)
    trainer.fit(trained, data(tmp_path))
    path = tmp_path / "cpsft.ckpt"
    trainer.save_checkpoint(path)
    return trained, str(path)


def logits(network):
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():
        return network.eval()(input_ids=ids).logits


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["checkpoint", "folder", "whole network", "sparse"])
def test_the_reference_of_the_second_stage_is_the_model_of_the_first(make_trainer, tmp_path, kind):
    trained, start = first_stage(make_trainer, tmp_path, **FIRST.get(kind, {}))
    if kind == "folder":
        start = str(tmp_path / "adapter")
        trained.adapter.save(start)
    before = logits(trained.network)
    assert (before - logits(load_backbone(trained.backbone_folder, "causal_lm").model)).abs().max() > 0.1
    losses = Losses()
    second = module("cdpo", init_adapter=start)
    make_trainer(losses, max_steps=3, limit_val_batches=0).fit(second, data(tmp_path, "cdpo"))
    assert losses.values[0] == pytest.approx(math.log(2), rel=1e-6), "policy and reference are equal at step 0"
    assert abs(losses.values[2] - math.log(2)) > 1e-4
    with second.adapter.disabled():
        torch.testing.assert_close(logits(second.network), before, atol=2e-5, rtol=1e-4)
    assert (logits(second.network) - before).abs().max() > 0.01
    restored = CPOModule.load_from_checkpoint(_saved(second, tmp_path), map_location="cpu")
    torch.testing.assert_close(logits(restored.network), logits(second.network))


def _saved(module, tmp_path):
    path = tmp_path / "cdpo.ckpt"
    module.trainer.save_checkpoint(path)
    return path


@pytest.mark.slow
def test_an_adapter_on_merged_weights_leaves_as_the_sum_of_both_or_merged(make_trainer, tmp_path, capsys):
    from fulgurite.commands.export.command import export
    from fulgurite.generation import load_for_generation

    _, start = first_stage(make_trainer, tmp_path)
    second = module("cdpo", init_adapter=start)
    make_trainer(max_steps=2, limit_val_batches=0).fit(second, data(tmp_path, "cdpo"))
    saved = str(_saved(second, tmp_path))
    export(saved, str(tmp_path / "sum"), "adapter")
    both = load_for_generation(second.backbone, str(tmp_path / "sum"))
    torch.testing.assert_close(logits(both.model), logits(second.network), atol=2e-5, rtol=1e-4)
    export(saved, str(tmp_path / "out"), "merged")
    loaded = load_for_generation(str(tmp_path / "out"))
    assert loaded.conditions == Objectives(OBJECTIVES)
    torch.testing.assert_close(logits(loaded.model), logits(second.network), atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_chain_of_stages_begins_with_all_of_them(make_trainer, tmp_path):
    _, start = first_stage(make_trainer, tmp_path)
    second = module("cdpo", init_adapter=start)
    make_trainer(max_steps=2, limit_val_batches=0).fit(second, data(tmp_path, "cdpo"))
    third = module("cdpo", init_adapter=str(_saved(second, tmp_path)))
    third.configure_model()
    torch.testing.assert_close(logits(third.network), logits(second.network), atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_objectives_travel_with_checkpoints_and_another_spelling_is_refused(make_trainer, tmp_path):
    """Fault 6 of the reference: its stages and tests spelt their tokens differently, and nobody noticed."""
    trained, start = first_stage(make_trainer, tmp_path)
    assert trained.conditions == Objectives(OBJECTIVES)
    assert CPOModule.load_from_checkpoint(start, map_location="cpu").conditions == Objectives(OBJECTIVES)
    for options in ({"spelling": "legacy"}, {"objectives": {"honesty": [1, 10]}}):
        with pytest.raises(ValueError, match="conditions of the data and the weights that this run begins with differ"):
            make_trainer(max_steps=1).fit(module("cdpo", init_adapter=start), data(tmp_path, "cdpo", **options))
    narrower = module("cdpo", init_adapter=start)
    make_trainer(max_steps=1, limit_val_batches=0).fit(narrower, data(tmp_path, "cdpo", objectives={"honesty": [1, 5]}))
    assert narrower.conditions == Objectives(OBJECTIVES), "what the first stage saw is still known"


@pytest.mark.slow
def test_another_first_stage_under_a_trained_second_one_is_refused(make_trainer, tmp_path):
    _, start = first_stage(make_trainer, tmp_path)
    second = module("cdpo", init_adapter=start)
    make_trainer(max_steps=1, limit_val_batches=0).fit(second, data(tmp_path, "cdpo"))
    saved = _saved(second, tmp_path)
    first_stage(make_trainer, tmp_path, learning_rate=5e-3)
    with pytest.raises(
        ValueError, match="holds other weights now than those that the checkpoint's adapter was trained on"
    ):
        CPOModule.load_from_checkpoint(saved, map_location="cpu")


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(make_trainer, tmp_path):
    _, start = first_stage(make_trainer, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")

    def run(crash=None, checkpoint=None):
        losses = Losses(crash)
        trainer = make_trainer(losses, limit_val_batches=0, max_steps=5)
        rows = data(tmp_path, "cdpo", batch_size=1)
        if crash is None:
            trainer.fit(module("cdpo", init_adapter=start), rows, ckpt_path=checkpoint)
        else:
            with pytest.raises(RuntimeError, match="killed"):
                trainer.fit(module("cdpo", init_adapter=start), rows)
        return losses.values

    seed_everything(1)
    straight = run()
    shutil.rmtree(tmp_path / "checkpoints")
    seed_everything(1)
    run(crash=3)
    last = tmp_path / "checkpoints" / "last.ckpt"
    done = torch.load(last, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
    seed_everything(999)
    assert 0 < done < len(straight) == 5 and len(set(straight)) == 5
    assert run(checkpoint=last) == straight[done:]


@pytest.mark.slow
def test_stages_learn_what_they_are_for(make_trainer, tmp_path):
    seed_everything(0)
    trained, losses = module(learning_rate=3e-3), Losses()
    trainer = make_trainer(losses, max_epochs=2)
    trainer.fit(trained, data(tmp_path, count=60))
    assert losses.values[-1] < 0.6 * losses.values[0]
    assert "val_loss/honesty" in trainer.callback_metrics, "a loss for each set of controlled objectives"
    trained.adapter.save(tmp_path / "start")
    losses = Losses()
    second = module("cdpo", init_adapter=str(tmp_path / "start"), learning_rate=1e-3)
    trainer = make_trainer(losses, max_epochs=4)
    trainer.fit(second, data(tmp_path, "cdpo", count=60, control="none"))
    assert sum(losses.values[-4:]) / 4 < math.log(2) - 0.05
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert 0 < metrics["val_rewards/accuracies_low"] < metrics["val_rewards/accuracies_high"] < 1


def test_refusals(make_trainer, tmp_path):
    with pytest.raises(ValueError, match="allowed are 'cpsft' and 'cdpo'"):
        module("dpo")
    with pytest.raises(
        ValueError, match="its stage is 'cdpo', and CPODataModule has stage 'cpsft'; give both the same stage"
    ):
        make_trainer(max_steps=1).fit(module("cdpo"), data(tmp_path))
    chats = SFTDataModule("builtin", tokenizer="playground", cache_dir=str(tmp_path / "cache"), limit_train=20)
    with pytest.raises(ValueError, match="holds a causal_lm task"):
        make_trainer(max_steps=1).fit(module("cdpo"), chats)
    for wrong, error, message in (
        ("nothing.ckpt", FileNotFoundError, "run the stage before this one first"),
        ("nothing", FileNotFoundError, "does not exist"),
    ):
        with pytest.raises(error, match=message):
            module("cdpo", init_adapter=str(tmp_path / wrong)).configure_model()
    (tmp_path / "broken.ckpt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        module("cdpo", init_adapter=str(tmp_path / "broken.ckpt")).configure_model()


def test_an_earlier_stage_of_another_shape_is_refused(make_trainer, tmp_path):
    _, start = first_stage(make_trainer, tmp_path)
    checkpoint = torch.load(start, weights_only=True)
    key = next(k for k in checkpoint["state_dict"] if k.endswith("lora_a"))
    del checkpoint["state_dict"][key]
    torch.save(checkpoint, tmp_path / "lacking.ckpt")
    with pytest.raises(ValueError, match="does not fit this backbone: 1 tensors are missing"):
        module("cdpo", init_adapter=str(tmp_path / "lacking.ckpt")).configure_model()
