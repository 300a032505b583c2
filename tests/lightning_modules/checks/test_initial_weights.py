"""init_adapter takes what every module and PEFT leave, and what is trained upon it leaves as one adapter on the base."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from lightning.pytorch import Trainer

from fulgurite.adapters import APET, LoRA, load_adapter
from fulgurite.callbacks import AdapterCheckpoint
from fulgurite.commands.export.command import export
from fulgurite.commands.fit.reports import report_fit
from fulgurite.commands.shared.checkpoint_files import load_module
from fulgurite.datamodules import SFTDataModule
from fulgurite.lightning_modules import APETModule, CPOModule, PreferenceModule, SFTModule, SoRAModule
from fulgurite.lightning_modules.checks.initial_weights import merge_adapter
from fulgurite.models import load_backbone

IDS = torch.arange(5, 21)[None]


def base():
    return load_backbone(PreferenceModule("playground").backbone_folder, "causal_lm").model.eval()


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


@torch.no_grad()
def moved(module):
    """The module built, with trained values that differ from zero; SoRA's first two gates are closed."""
    torch.manual_seed(1)
    module.configure_model()
    for branch in module.adapter.branches.values():
        for name, p in branch.named_parameters():
            if name == "lora_b" or name.startswith("delta"):
                p.normal_(std=0.05)
        if getattr(branch, "gate", None) is not None:
            branch.gate.normal_()[:2] = 0
    module.adapter.sync()
    return module


def write(module, file):
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[AdapterCheckpoint()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.strategy.connect(module)
    trainer.save_checkpoint(file)
    return str(file)


FIRST = {
    "SoRAModule": lambda: SoRAModule("playground", task="causal_lm", rank=4),
    "APETModule": lambda: APETModule("playground", task="causal_lm", budget=500),
    "SFTModule": lambda: SFTModule("playground", adapter=LoRA(rank=2, alpha=4)),
    "APET by indices": lambda: SFTModule("playground", adapter=APET(budget=500, storage="indices")),
}


@pytest.mark.parametrize("stored", [True, False], ids=["described", "of an earlier version"])
@pytest.mark.parametrize("first", list(FIRST))
def test_checkpoints_of_every_module_are_merged(first, stored, tmp_path):
    module = moved(FIRST[first]())
    path = write(module, tmp_path / "first.ckpt")
    if not stored:
        checkpoint = torch.load(path, weights_only=True)
        checkpoint.pop("adapter", None)
        torch.save(checkpoint, path)
    model = base()
    merge_adapter(model, path)
    assert torch.allclose(logits(model), logits(module.network), atol=1e-5)
    assert not torch.allclose(logits(model), logits(base()), atol=1e-2)


@pytest.mark.slow
def test_positions_that_gradients_chose_travel_with_the_checkpoint(make_trainer, tmp_path):
    data = SFTDataModule(
        "builtin", tokenizer="playground", cache_dir=str(tmp_path / "cache"), limit_train=8, batch_size=4
    )
    module = APETModule(
        "playground", task="causal_lm", budget=50, selection="gradient", score_batches=1, learning_rate=1e-2
    )
    make_trainer(max_steps=2, max_epochs=1, limit_val_batches=0).fit(module, data)
    model = base()
    merge_adapter(model, str(tmp_path / "checkpoints" / "last.ckpt"))
    assert torch.allclose(logits(model), logits(module.network), atol=1e-5)


@pytest.mark.slow
def test_peft_folders_are_merged(tmp_path):
    path = write(moved(FIRST["SoRAModule"]()), tmp_path / "first.ckpt")
    export(path, str(tmp_path / "peft"))
    model = base()
    keys = set(model.state_dict())
    merge_adapter(model, str(tmp_path / "peft"))
    assert set(model.state_dict()) == keys
    assert torch.allclose(logits(model), logits(load_module(path).network), atol=1e-5)


def test_peft_folders_that_do_not_fit_or_merge_are_refused(tmp_path):
    write(moved(FIRST["SFTModule"]()), tmp_path / "first.ckpt")
    export(str(tmp_path / "first.ckpt"), str(tmp_path / "peft"))
    file = tmp_path / "peft" / "adapter_config.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, "target_modules": ["nothing"]}))
    with pytest.raises(ValueError, match=r"init_adapter: .*peft does not fit this backbone"):
        merge_adapter(base(), str(tmp_path / "peft"))


def test_a_stage_that_is_not_finite_is_refused(tmp_path):
    module = moved(FIRST["SFTModule"]())
    with torch.no_grad():
        next(iter(module.adapter.branches.values())).lora_b[0, 0] = float("nan")
    path = write(module, tmp_path / "first.ckpt")
    with pytest.raises(ValueError, match=r"init_adapter: .*first\.ckpt: network\..*lora_b holds NaN or infinity"):
        merge_adapter(base(), path)


def first_of(kind, folder):
    path = write(moved(FIRST["SoRAModule"]()), folder / "first.ckpt")
    if kind == "checkpoint":
        return path
    export(path, str(folder / kind), format=kind)
    return str(folder / kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["checkpoint", "peft", "adapter"])
@pytest.mark.parametrize("second", [LoRA(rank=2, alpha=8, targets=r".*\.(q_proj|up_proj)"), "SoRA"])
def test_two_stacked_adapters_leave_as_one(kind, second, tmp_path):
    from peft import PeftModel

    from fulgurite.adapters import SoRA

    adapter = SoRA(rank=3, alpha=5) if second == "SoRA" else second
    start = first_of(kind, tmp_path)
    module = moved(PreferenceModule("playground", adapter=adapter, init_adapter=start))
    path = write(module, tmp_path / "second.ckpt")
    expected = logits(module.network)

    export(path, str(tmp_path / "peft-out"))
    assert torch.allclose(logits(PeftModel.from_pretrained(base(), tmp_path / "peft-out")), expected, atol=1e-4)
    export(path, str(tmp_path / "adapter-out"), format="adapter")
    fresh = base()
    load_adapter(fresh, tmp_path / "adapter-out")
    assert torch.allclose(logits(fresh), expected, atol=1e-4)
    export(path, str(tmp_path / "merged"), format="merged")
    assert torch.allclose(logits(load_backbone(str(tmp_path / "merged"), "causal_lm").model), expected, atol=1e-4)


@pytest.mark.slow
def test_three_stages_too(tmp_path):
    from peft import PeftModel

    first = first_of("peft", tmp_path)
    second = write(moved(CPOModule("playground", adapter=LoRA(rank=2), init_adapter=first)), tmp_path / "second.ckpt")
    module = moved(PreferenceModule("playground", adapter=LoRA(rank=3), init_adapter=second))
    path = write(module, tmp_path / "third.ckpt")
    export(path, str(tmp_path / "out"))
    assert torch.allclose(
        logits(PeftModel.from_pretrained(base(), tmp_path / "out")), logits(module.network), atol=1e-4
    )


def test_what_is_no_sum_of_low_ranks_is_refused_and_merged_instead(tmp_path):
    start = write(moved(FIRST["APETModule"]()), tmp_path / "first.ckpt")
    path = write(
        moved(PreferenceModule("playground", adapter=LoRA(rank=2), init_adapter=start)), tmp_path / "second.ckpt"
    )
    for form in ("peft", "adapter"):
        with pytest.raises(ValueError, match=r"first\.ckpt was put, an adapter of kind APET.*--format merged"):
            export(path, str(tmp_path / "out"), format=form)
    export(path, str(tmp_path / "out"), format="merged")


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["LoRA", "Bottleneck", "none"])
@pytest.mark.parametrize("upon", [False, True])
def test_the_command_that_a_run_recommends_works(adapter, upon, make_trainer, tmp_path, capsys):
    from fulgurite import adapters
    from fulgurite.__main__ import main

    start = first_of("checkpoint", tmp_path) if upon else None
    config = {"LoRA": LoRA(rank=2), "Bottleneck": adapters.Bottleneck(width=2), "none": None}[adapter]
    data = SFTDataModule(
        "builtin", tokenizer="playground", cache_dir=str(tmp_path / "cache"), limit_train=8, batch_size=4
    )
    module = CPOModule("playground", adapter=config, init_adapter=start)
    data.stage = "cpsft"
    trainer = make_trainer(max_steps=1, max_epochs=1, limit_val_batches=0, default_root_dir=tmp_path)
    trainer.fit(module, data)
    capsys.readouterr()
    report_fit(trainer)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if "fulgurite export" in line]
    if upon and adapter == "Bottleneck":
        assert not lines
    else:
        (line,) = lines
        assert main(shlex.split(line)[1:]) in (None, 0)
