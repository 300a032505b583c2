"""`last` and `best` where they are damaged or gone: the newest whole checkpoint is named."""

import os
from pathlib import Path

import pytest
import torch

from fulgurite.commands.shared.checkpoint_files import find_checkpoint


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
