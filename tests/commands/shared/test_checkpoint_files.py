"""`last` and `best` where they are damaged or gone: the newest whole checkpoint is named."""

import os
from pathlib import Path

import pytest
import torch

from fulgurite.cli import main
from fulgurite.commands.shared.checkpoint_files import find_checkpoint, read_checkpoint
from tests.commands.fit.runs import QUICK, checkpoint_of


@pytest.mark.parametrize("wanted", ["last", "best"])
def test_the_newest_whole_file_is_named(tmp_path: Path, wanted: str) -> None:
    folder = tmp_path / "check points"
    folder.mkdir()
    for number, name in enumerate(["epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt", "last.ckpt"]):
        torch.save({"state_dict": {}, "callbacks": {}}, folder / name)
        os.utime(folder / name, (number, number))
    os.truncate(folder / "last.ckpt", 100)
    os.truncate(folder / "epoch=2.ckpt", 100)
    advice = f"newest whole checkpoint there is epoch=1.ckpt: give --ckpt_path '{folder}/epoch=1.ckpt'"
    with pytest.raises(ValueError, match=r"last.ckpt is damaged, 100 bytes") as told:
        find_checkpoint(wanted, folder, "test")
    assert advice in str(told.value)
    (folder / "last.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match=r"looked for last\*.ckpt") as missing:
        find_checkpoint(wanted, folder, "test")
    assert advice in str(missing.value)


def test_best_is_gone(tmp_path: Path) -> None:
    state = {"c": {"best_model_path": str(tmp_path / "gone.ckpt")}}
    torch.save({"state_dict": {}, "callbacks": state}, tmp_path / "last.ckpt")
    with pytest.raises(
        FileNotFoundError, match=r"names no best checkpoint .*newest whole checkpoint there is last.ckpt"
    ):
        find_checkpoint("best", tmp_path, "test")
    assert find_checkpoint("last", tmp_path, "test") == str(tmp_path / "last.ckpt")


@pytest.mark.parametrize("verb", ["validate", "test", "predict", "fit"])
def test_weights_that_are_not_finite_are_not_measured(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from fulgurite.lightning_modules import ClassificationModule

    file = checkpoint_of(ClassificationModule("playground", num_labels=2), tmp_path / "run" / "last.ckpt")
    content = torch.load(file, weights_only=True)
    content["state_dict"]["network.score.weight"][0, 0] = float("nan")
    torch.save(content, file)
    words = [verb, *QUICK, "--ckpt_path", str(file), "--trainer.default_root_dir", str(tmp_path / "other")]
    assert main(words) == 1
    assert "last.ckpt: network.score.weight holds NaN or infinity" in capsys.readouterr().err


def test_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_function_that_a_checkpoint_names_is_not_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lightning before 2.6.6, which our floor allows, calls it."""
    from fulgurite.lightning_modules import ClassificationModule

    file = checkpoint_of(ClassificationModule("playground", num_labels=2), tmp_path / "last.ckpt")
    content = torch.load(file, weights_only=True)
    content["hyper_parameters"]["_instantiator"] = "os.system"
    torch.save(content, file)
    assert main(["export", "--ckpt_path", str(file), "--out", str(tmp_path / "out"), "--format", "merged"]) == 1
    assert "it asks for 'os.system' to be called" in capsys.readouterr().err


def test_an_adapter_of_a_class_that_is_not_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fulgurite.adapters import LoRA
    from fulgurite.lightning_modules import ClassificationModule

    file = checkpoint_of(ClassificationModule("playground", adapter=LoRA(rank=2), num_labels=2), tmp_path / "last.ckpt")
    content = torch.load(file, weights_only=True)
    content["hyper_parameters"]["adapter"]["class_path"] = "my_module.MyAdapter"
    torch.save(content, file)
    assert main(["export", "--ckpt_path", str(file), "--out", str(tmp_path / "out")]) == 1
    assert "its class my_module.MyAdapter cannot be imported here" in capsys.readouterr().err
