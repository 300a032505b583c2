"""Checkpoints: whole on the disk, or an error; never Lightning's silence."""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.cli import main
from tests import forking
from tests.commands.fit.runs import QUICK

FIT = ["fit", *QUICK, "--trainer.default_root_dir", "run", "--trainer.max_steps"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FULGURITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", [13, 30])  # not allowed, a file system that is read only
def test_a_checkpoint_that_is_refused_is_an_error(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """Tests often run as root, whom no mode stops: the system's refusal is played."""
    import builtins
    import os

    honest = builtins.open

    def refusing(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if "checkpoints" in str(file) and ("w" in mode or "x" in mode):
            raise OSError(number, os.strerror(number), str(file))
        return honest(file, mode, *rest, **options)

    monkeypatch.setattr(builtins, "open", refusing)
    monkeypatch.setattr("fsspec.implementations.local.open", refusing, raising=False)
    monkeypatch.setattr("torch.serialization.open", refusing, raising=False)

    def writer(name: Any, *rest: Any, **options: Any) -> Any:
        refusing(str(name), "wb")

    monkeypatch.setattr(torch._C, "PyTorchFileWriter", writer)
    assert main([*FIT, "1"]) == 1
    told = capsys.readouterr().err
    assert f"run/checkpoints ({os.strerror(number)}); free some space, or give --trainer.default_root_dir" in told


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_older_checkpoint(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, "1"]) == 0
    last = here / "run" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert main([*FIT, "2", "--ckpt_path", "last"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    told = capsys.readouterr().err
    assert ".ckpt cannot be written to " in told and "--trainer.default_root_dir" in told
    assert last.read_bytes() == before and {file.suffix for file in last.parent.iterdir()} == {".ckpt"}
    assert main([*FIT, "2", "--ckpt_path", "last"]) == 0


@pytest.mark.slow
def test_a_kill_while_last_is_written_leaves_a_whole_one(here: Path) -> None:
    """Also where the temporary folder lies on another file system: it is not used."""
    assert main([*FIT, "1"]) == 0
    last = here / "run" / "checkpoints" / "last.ckpt"
    program = (
        "import os, signal, sys, torch\n"
        "save = torch.save\n"
        "def killed(content, file, *rest, **options):\n"
        "    save(content, file, *rest, **options)\n"
        "    if 'last' in str(file):\n"
        "        os.truncate(file, 5000)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "torch.save = killed\n"
        "from fulgurite.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [*FIT, "2", "--ckpt_path", "last"]
    result = forking.run(["-c", program, *words], timeout=120)
    assert result.returncode == -9, result.stderr
    assert torch.load(last, weights_only=True)["global_step"] == 1
    assert [file for file in last.parent.iterdir() if file.name.endswith(".part")], "killed while it was written"
    assert main([*FIT, "2", "--ckpt_path", "last"]) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert {file.suffix for file in last.parent.iterdir()} == {".ckpt"}, "what the killed run left is gone"
