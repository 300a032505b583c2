"""What a checkpoint may have imported: not a file that merely lies in the current folder."""

import importlib
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fulgurite.commands.shared.checkpoint_files import load_module
from fulgurite.lightning_modules.checks.named_classes import refuse_local_classes

_LEAVES_A_MARK = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nclass Module: pass\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of `python -m fulgurite`, with a Python file in it."""
    (tmp_path / "downloaded_model.py").write_text(_LEAVES_A_MARK)
    main = ModuleType("__main__")
    main.__spec__ = ModuleSpec("fulgurite.__main__", None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    return tmp_path


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"_class_path": "downloaded_model.Module"},
        {"_class_path": "fulgurite.lightning_modules.SFTModule", "adapter": {"class_path": "downloaded_model.Module"}},
        {
            "_class_path": "fulgurite.lightning_modules.SFTModule",
            "rewards": [{"class_path": "downloaded_model.inner.Module"}],
        },
        {"_class_path": "fulgurite.lightning_modules.RLModule", "rewards": ["gsm8k", "downloaded_model:reward"]},
    ],
)
def test_a_checkpoint_does_not_choose_local_code(folder: Path, hyperparameters: dict[str, object]) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": hyperparameters}, folder / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt: its downloaded_model[.:].* current folder.*PYTHONPATH=\."):
        load_module(folder / "last.ckpt")
    assert not (folder / "ran").exists()


def test_what_the_user_chose_is_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"_class_path": "downloaded_model.Module"}
    with monkeypatch.context() as patch:  # PYTHONPATH=.
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        refuse_local_classes("last.ckpt", named)
    with monkeypatch.context() as patch:  # --model downloaded_model.Module was typed
        patch.setitem(sys.modules, "downloaded_model", ModuleType("downloaded_model"))
        refuse_local_classes("last.ckpt", named)
    with monkeypatch.context() as patch:  # a script of the user's own
        patch.setattr(sys.modules["__main__"], "__spec__", None)
        refuse_local_classes("last.ckpt", named)
    refuse_local_classes("last.ckpt", {"_class_path": "fulgurite.lightning_modules.SFTModule"})
    refuse_local_classes("last.ckpt", {"_class_path": "not_there_at_all.Module"})  # said where it is imported
