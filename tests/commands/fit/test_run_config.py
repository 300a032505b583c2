"""A run's folder: another run in it is not replaced by accident, nothing is lost before there is a new checkpoint."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml

from fulgurite.cli import main
from tests import forking
from tests.commands.fit.runs import QUICK

FIT = ["fit", *QUICK, "--trainer.default_root_dir", "run", "--trainer.max_steps"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FULGURITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    """Every file that a command may need: checkpoints and the configuration."""
    return {file.name: file.read_bytes() for file in [*folder.glob("checkpoints/*"), folder / "config.yaml"]}


def rank(folder: Path) -> int:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert "overwrite" not in config
    return int(config["model"]["init_args"]["adapter"]["init_args"]["rank"])


@pytest.mark.slow
def test_a_used_folder_is_refused_and_overwriting_is_typed(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = here / "run"
    assert main([*FIT, "8"]) == 0  # an epoch
    before = content(run)
    assert sorted(before) == ["config.yaml", "epoch=0-step=8.ckpt", "last.ckpt"]
    assert main([*FIT, "1", "--model.adapter.rank", "3"]) == 1
    told = capsys.readouterr().err
    assert "fit: run/checkpoints holds the checkpoints of an earlier run" in told
    assert "--ckpt_path last" in told and "--overwrite true" in told and content(run) == before
    # Ended before its first checkpoint, a fit that may overwrite has taken nothing.
    from fulgurite.lightning_modules import ClassificationModule

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationModule, "on_train_batch_end", lambda *_: 1 / 0, raising=False)
        with pytest.raises(ZeroDivisionError):
            main([*FIT, "1", "--model.adapter.rank", "3", "--overwrite"])
    assert content(run) == before and rank(run) == 2
    # A resumption goes on, and the whole run is the new one once it has a checkpoint.
    assert main([*FIT, "9", "--ckpt_path", "last"]) == 0 and len(content(run)) == 3
    assert main([*FIT, "1", "--model.adapter.rank", "3", "--overwrite"]) == 0
    assert rank(run) == 3 and sorted(content(run)) == ["config.yaml", "last.ckpt"]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 1


@pytest.mark.slow
def test_a_kill_between_the_first_checkpoint_and_its_configuration_mixes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fulgurite.commands.fit import run_config

    run = here / "run"
    assert main([*FIT, "1"]) == 0
    with monkeypatch.context() as patch:  # what a kill leaves: nothing is cleared, nothing is renamed
        patch.setattr(run_config, "_remove_waiting", lambda *_: None)
        patch.setattr(run_config.RunConfig, "_replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*FIT, "1", "--model.adapter.rank", "3", "--overwrite"])
    assert (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]["adapter"]["init_args"][
            "rank"
        ]
        == 3
    )
    (own,) = run.glob("config.*.yaml")
    capsys.readouterr()
    for verb in ("fit", "test"):
        mixed = [verb, "--config", "run/config.yaml", "--ckpt_path", "last"]
        assert main(mixed) == 1
        told = capsys.readouterr().err
        assert f"{verb}: run/config.yaml is of another run than run/checkpoints/last.ckpt" in told
        assert f"fulgurite {verb} --config run/{own.name} --ckpt_path run/checkpoints/last.ckpt" in told
    assert main(["fit", "--config", f"run/{own.name}", "--ckpt_path", "last", "--trainer.max_steps", "2"]) == 0
    assert rank(run) == 3 and not list(run.glob("config.*.yaml"))
    assert main(["fit", "--config", "run/config.yaml", "--ckpt_path", "last", "--trainer.max_steps", "3"]) == 0


def test_which_configuration_is_a_checkpoints_own(tmp_path: Path) -> None:
    from fulgurite.commands.fit.run_config import check_same_run

    checkpoint, config = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "config.yaml"
    mine, other = "0123456789abcdef", "fedcba9876543210"
    saved = {"fulgurite_run": mine}
    for content, refused in (
        (f"# run {mine}\na: 1\n", False),
        (f"# run {other}\n", True),
        ("a: 1\n", False),
        ("", False),
    ):
        config.write_text(content)
        if refused:
            with pytest.raises(ValueError, match=r"of another run.*give its options on the command line"):
                check_same_run(saved, checkpoint, [config], "fit")
        else:
            check_same_run(saved, checkpoint, [config], "fit")
        check_same_run({}, checkpoint, [config], "fit")  # of an earlier version
        check_same_run(saved, tmp_path / "elsewhere" / "checkpoints" / "last.ckpt", [config], "fit")
    # Over a run of an earlier version, whose configuration bears no name.
    config.write_text("a: 1\n")
    (tmp_path / f"config.{mine}.yaml").write_text(f"# run {mine}\n")
    with pytest.raises(ValueError, match=f"of another run.*config.{mine}.yaml"):
        check_same_run(saved, checkpoint, [config], "fit")
    check_same_run(saved, checkpoint, [tmp_path / f"config.{mine}.yaml"], "fit")


def test_another_runs_checkpoint_is_no_resumption(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, "1"]) == 0
    (here / "run").rename(here / "other")
    assert main([*FIT, "1"]) == 0
    assert main([*FIT, "2", "--ckpt_path", "other/checkpoints/last.ckpt"]) == 1
    assert "holds the checkpoints of an earlier run" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "word"),
    [
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGHUP, 129, "the terminal was closed"),
    ],
)
def test_a_signal_ends_with_its_code_and_says_how_to_go_on(
    here: Path, sent: signal.Signals, code: int, word: str
) -> None:
    words = [*FIT, "-1", "--trainer.max_epochs", "1000", "--data.limit_train", "8", "--data.batch_size", "8"]
    words += ["--trainer.default_root_dir", "a run"]
    with open("err", "w") as err:
        fit = forking.popen(["-m", "fulgurite", *words], stdout=subprocess.DEVNULL, stderr=err)
    last = here / "a run" / "checkpoints" / "last.ckpt"
    while not last.exists() and fit.poll() is None:
        time.sleep(0.1)
    fit.send_signal(sent)
    assert fit.wait(timeout=60) == code, Path("err").read_text()
    told = Path("err").read_text()
    assert f"fulgurite: error: {word}" in told and "fulgurite: stopped at step " in told and "Traceback" not in told
    line = next(line for line in told.splitlines() if "go on with: " in line)
    assert line.endswith(
        "go on with: fulgurite fit --config 'a run/config.yaml' --ckpt_path 'a run/checkpoints/last.ckpt'"
    )
    step = torch.load(last, weights_only=True)["global_step"]
    assert (
        main(["fit", "--config", "a run/config.yaml", "--ckpt_path", str(last), "--trainer.max_epochs", str(step + 1)])
        == 0
    )
    assert torch.load(last, weights_only=True)["global_step"] == step + 1
    assert not [name for name in os.listdir(last.parent) if name.endswith(".part")]


def test_a_fit_that_early_stopping_ends_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopper = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val_accuracy"]
    stopper += [
        "--trainer.callbacks.patience",
        "1",
        "--trainer.callbacks.mode",
        "max",
        "--trainer.callbacks.min_delta",
        "2",
    ]
    assert main([*FIT, "-1", "--trainer.max_epochs", "9", *stopper]) == 0
    assert "stopped early: Monitored metric val_accuracy did not improve" in capsys.readouterr().out
