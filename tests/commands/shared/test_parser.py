"""What is typed wrongly, and files that are no configuration, are one sentence each; what is typed is taken as it stands."""

import contextlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Union

import pytest
from lightning_utilities.core.imports import RequirementCache

from fulgurite.cli import main
from fulgurite.commands.shared.parser import TrainerParser
from tests.commands.fit.runs import QUICK

MODEL = ["fit", *QUICK, "--trainer.max_steps", "1", "--trainer.default_root_dir"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FULGURITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fit", "--config"], "--config stands without a value; write --config VALUE"),
        (["fit", "--trainer.max_steps", "--model", "SFTModule"], "--trainer.max_steps stands without a value"),
        (["generate", "--prompt", "--model", "playground"], "--prompt stands without a value; write --prompt VALUE"),
        (["fit", "--config", "none.yaml"], "--config none.yaml: no such file"),
        (["fit", "--config", "."], "--config .: is a folder"),
    ],
)
def test_an_option_without_a_value(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "x.yaml: the file is empty; write options into it"),
        ("# a comment\n", "x.yaml: the file is empty"),
        ("- a\n" * 100_000, "x.yaml: it holds a list of 100000 items; a configuration is options by name"),
        ("hello\n", "x.yaml: it holds the text 'hello'; a configuration is options by name"),
        ("model: [\n", "x.yaml, line 2, column 1: "),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "x.yaml, line 4: 'c' stands there a second time (first in line 3)"),
        ("a:\n- b: 1\n  b: 2\n", "x.yaml, line 3: 'b' stands there a second time (first in line 2)"),
    ],
)
def test_a_file_that_is_no_configuration(content: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.yaml").write_text(content)
    assert main(["fit", "--config", "x.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line and len(line) < 300


def test_a_hash_is_a_letter(capsys: pytest.CaptureFixture[str]) -> None:
    """As YAML it begins a comment: the run went to the default folder."""
    assert main([*MODEL, "#run"]) == 0
    assert (Path("#run") / "checkpoints" / "last.ckpt").is_file() and not Path("runs").exists()
    told = capsys.readouterr()
    assert "--config '#run/config.yaml' --ckpt_path '#run/checkpoints/last.ckpt'" in told.out
    assert main(["generate", "--model", "#none", "--prompt", "a"]) == 1
    assert "#none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["generate", "--model", "null", "--prompt", "a"], "'null' is neither a folder nor a model"),
        (["generate", "--model", "playground", "--file=~", "--output", "o.jsonl"], "--file ~: no such file"),
        (
            [*MODEL, "run", "--data.path", "null"],
            "GLUEDataModule: path was given null, which stands for no value; allowed",
        ),
        ([*MODEL, "run", "--data.batch_size", "null"], "GLUEDataModule: batch_size was given null"),
        ([*MODEL, "run", "--model.learning_rate", "null"], "ClassificationModule: learning_rate was given null"),
    ],
)
def test_null_is_a_name_or_refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As YAML it is no value: generate said that nothing was asked, and a fit ended in a traceback."""
    assert main(words) == 1
    assert told in capsys.readouterr().err


def test_a_user_without_a_home(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no line in /etc/passwd."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "FULGURITE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert main([*MODEL, "run"]) == 1
    assert "this user has no home folder; set HOME, or FULGURITE_CACHE" in capsys.readouterr().err


@pytest.mark.parametrize("logger", ["WandbLogger", "TensorBoardLogger"])
def test_a_logger_that_is_not_installed(
    logger: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", RequirementCache("wandb>=999"))
    for flag in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning.fabric.loggers.tensorboard.{flag}", False)
    assert main([*MODEL, "run", "--trainer.logger", logger, "--trainer.logger.save_dir", "x"]) == 1
    told = capsys.readouterr().err
    assert f"error: {logger}: a package that it needs is not installed" in told and "Traceback" not in told


@pytest.mark.slow
def test_a_strategy_is_given_by_name_or_class(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["validate", *QUICK, "--trainer.logger", "false", "--trainer.strategy"]
    assert main([*words, "SingleDeviceStrategy", "--trainer.strategy.device", "cpu"]) == 0
    capsys.readouterr()
    if find_spec("torch_xla") is None:
        assert main([*words, "xla"]) == 1
        assert "is not installed; pip install 'torch_xla" in capsys.readouterr().err
    assert main([*words, "nothing"]) == 1
    assert "--trainer.strategy nothing: no strategy has this name; give auto, ddp" in capsys.readouterr().err


def test_the_next_command_is_one_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    """Quotes where the folder has spaces; no test where there is no test split."""
    Path("rows.csv").write_text("text,label\n" + "".join(f"row {i},{i % 2}\n" for i in range(20)))
    words = [
        "fit",
        *QUICK[:6],
        "--trainer.accelerator",
        "cpu",
        "--trainer.max_steps",
        "1",
        "--trainer.enable_progress_bar",
    ]
    words += [
        "false",
        "--data",
        "FilesDataModule",
        "--data.train_path",
        "rows.csv",
        "--data.text",
        "text",
        "--data.label",
    ]
    assert main([*words, "label", "--trainer.default_root_dir", "a run"]) == 0
    told = capsys.readouterr().out
    export = "fulgurite export --ckpt_path 'a run/checkpoints/last.ckpt' --out 'a run/peft'"
    assert "next:" in told and export in told and "fulgurite test" not in told
    assert main(["export", "--ckpt_path", "a run/checkpoints/last.ckpt", "--out", "a run/peft"]) == 0


def test_links_that_lead_to_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    os.symlink("loop", "loop")
    os.symlink("loop.jsonl", "loop.jsonl")
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    Path("x.ckpt").write_text("")
    for words in (
        ["export", "--ckpt_path", "x.ckpt", "--out", "loop"],
        ["generate", "--model", "playground", "--file", "rows.jsonl", "--output", "loop.jsonl"],
        ["score", "--model", "playground", "--file", "rows.jsonl", "--output", "loop.jsonl"],
    ):
        assert main(words) == 1
        assert "symbolic links that lead to each other" in capsys.readouterr().err


@pytest.mark.slow
def test_a_terminal_of_few_letters(here: Path) -> None:
    """The progress bar has letters that ASCII lacks; the fit died before step 1."""
    pty = pytest.importorskip("pty")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "TERM": "xterm"}
    mine, its = pty.openpty()
    words = [word for word in [*MODEL, "run"] if word not in ("--trainer.enable_progress_bar", "false")]
    fit = subprocess.Popen([sys.executable, "-m", "fulgurite", *words], env=environment, stdout=its, stderr=its)
    os.close(its)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while part := os.read(mine, 4096):
            shown += part
    os.close(mine)
    assert fit.wait(timeout=60) == 0 and b"next:" in shown, shown.decode(errors="replace")


def test_a_chat_whose_input_is_closed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["generate", "--model", "playground", "--chat"]) == 1
    assert "--chat reads what you type from the standard input, which is closed" in capsys.readouterr().err


def test_whole_numbers_stay_whole_whatever_was_imported_before() -> None:
    """typing's cache turns Lightning's Optional[Union[int, float]] around where another package wrote it the other way round a
    moment before: 1 validation batch became 1.0, all of them."""

    class Turned:
        def __init__(self, limit: Union[float, int, None] = None, share: float | int = 0.5) -> None:  # noqa: UP007
            pass

    parser = TrainerParser(prog="x")
    parser.add_class_arguments(Turned, "trainer")
    for word, value in (("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("null", None)):
        found = parser.parse_args(["--trainer.limit", word]).trainer.limit
        assert found == value and type(found) is type(value)
    assert type(parser.parse_args(["--trainer.share", "2"]).trainer.share) is int
