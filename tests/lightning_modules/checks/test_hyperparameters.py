"""Checkpoints name classes by their public paths, and those that name files still load."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer

from fulgurite import lightning_modules
from fulgurite.adapters import LoRA
from fulgurite.commands.shared.checkpoint_files import load_module
from fulgurite.lightning_modules import FinetuneModule, SFTModule
from fulgurite.lightning_modules.checks.hyperparameters import public_path


def test_every_module_has_a_public_path():
    for name in lightning_modules.__all__:
        assert public_path(getattr(lightning_modules, name)) == f"fulgurite.lightning_modules.{name}"


def test_a_class_that_no_package_offers_keeps_the_path_of_its_file():
    class Mine(FinetuneModule):
        pass

    assert public_path(Mine) == f"{__name__}.{Mine.__qualname__}"
    assert public_path(torch.nn.Linear) == "torch.nn.Linear" and public_path(dict) == "builtins.dict"


@pytest.mark.slow
def test_checkpoints_with_public_paths_and_with_paths_of_files_load(tmp_path):
    module = SFTModule("playground", adapter=LoRA(rank=2))
    assert module.hparams["_class_path"] == "fulgurite.lightning_modules.SFTModule"
    assert module.hparams["adapter"]["class_path"] == "fulgurite.adapters.LoRA"
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    trainer.strategy.connect(module)
    module.configure_model()
    new, old = tmp_path / "new.ckpt", tmp_path / "old.ckpt"
    trainer.save_checkpoint(new)
    content = torch.load(new, weights_only=True)
    content["hyper_parameters"]["_class_path"] = "fulgurite.lightning_modules.sft.SFTModule"
    content["hyper_parameters"]["adapter"]["class_path"] = "fulgurite.adapters.config.LoRA"
    torch.save(content, old)
    for path in (new, old):
        loaded = load_module(path)
        assert type(loaded) is SFTModule and loaded.adapter_config == LoRA(rank=2)
        assert SFTModule.load_from_checkpoint(path, map_location="cpu").adapter_config == LoRA(rank=2)
