"""The command line: what it answers to mistakes, where it puts things, and that it never tests untrained weights."""

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from fulgurite.cli import VERBS, main

FIT = (
    "fit --model SoRAModule --model.backbone playground --model.rank 4 --model.threshold 0.02 --data GLUEDataModule "
    "--data.task sst2 --data.path builtin --data.splits paper --data.limit_train 64 --data.batch_size 16 "
    "--trainer.max_epochs 2 --trainer.limit_val_batches 2 --trainer.limit_test_batches 2 "
    "--trainer.log_every_n_steps 2 --trainer.accelerator cpu"
).split()
CLASSIFY = "--model ClassificationModule --model.backbone playground --data GLUEDataModule --data.path builtin".split()


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def ask(*words: str) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
    return Answer(code, out.getvalue(), err.getvalue())


def error_of(*words: str) -> str:
    """The one error line of a command line that is wrong (exit code 2)."""
    answer = ask(*words)
    assert answer.code == 2, answer
    lines = [line for line in answer.err.splitlines() if line.startswith("fulgurite: error: ")]
    assert len(lines) == 1, answer.err
    return lines[0].removeprefix("fulgurite: error: ")


class Run(NamedTuple):
    root: Path
    answer: Answer

    @property
    def last(self) -> str:
        return str(self.root / "checkpoints" / "last.ckpt")

    def again(self, verb: str, *words: str) -> Answer:
        return ask(verb, "--config", str(self.root / "config.yaml"), *words)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    root = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FULGURITE_CACHE", str(root / "cache"))
        patch.chdir(root)
        answer = ask(*FIT)
        assert answer.code == 0, answer.err
        yield Run(root / "runs" / "sora-glue-sst2", answer)


def test_verbs_and_functions_exist() -> None:
    import importlib

    for verb in VERBS.values():
        if verb.function:
            module, _, name = verb.function.partition(":")
            assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fti"], ["no verb 'fti'", "Did you mean 'fit'?"]),
        (["--config", "c.yaml", "fit"], ["the verb comes first", "fulgurite fit --config"]),
        (
            ["fit", *CLASSIFY, "--model.learning_rat", "1"],
            ["ClassificationModule has no option", "'learning_rate'?"],
        ),
        (["fit", "--model", "SoraModule"], ["no class named 'SoraModule'", "Did you mean 'SoRAModule'?", "SFTModule"]),
        (["fit", "--data", "GlueDatamodul"], ["no class named 'GlueDatamodul'", "Did you mean 'GLUEDataModule'?"]),
        (["fit", *CLASSIFY, "--data.tusk", "sst2"], ["GLUEDataModule has no option 'tusk'", "Did you mean 'task'?"]),
        (["fit", *CLASSIFY, "--trainer.max_epoch", "1"], ["'trainer.max_epoch'", "Did you mean 'trainer.max_epochs'?"]),
        (["fit", *CLASSIFY, "--trianer.max_epochs", "1"], ["no option 'trianer'", "Did you mean 'trainer'?"]),
        (["fit", *CLASSIFY, "--model.learning_rate", "fast"], ["'learning_rate' was given 'fast'", "float"]),
        (["fit", *CLASSIFY, "--trainer.precision", "bf17"], ["'trainer.precision' was given 'bf17'", "'bf16-mixed'"]),
        (
            ["fit", *CLASSIFY, "--model.adapter", "LoRa"],
            ["ClassificationModule.adapter: no class named 'LoRa'", "'LoRA'?"],
        ),
        (
            ["fit", *CLASSIFY, "--model.adapter", "LoRA", "--model.adapter.rnk", "2"],
            ["LoRA has no option 'rnk'", "'rank'?"],
        ),
        (["fit", "--data", "GLUEDataModule"], ["fit needs --model", "--config FILE"]),
        (["fit", "--model", "SoRAModule", "--data", "GLUEDataModule"], ["SoRAModule needs a value for 'backbone'"]),
        (
            ["fit", *CLASSIFY, "--trainer.callbacks+=EarlyStoping"],
            ["no class named 'EarlyStoping'", "'EarlyStopping'?"],
        ),
        (["export", "--ckpt_path", "a.ckpt", "--oot", "b"], ["has no option 'oot'", "Did you mean 'out'?"]),
        (["export", "--ckpt_path", "a.ckpt"], ["needs --out"]),
        (["export"], ["needs --ckpt_path, --out"]),
        (["score"], ["needs --model, --file"]),
        (["thresholds"], ["needs --out"]),
        (
            ["export", "--ckpt_path", "a.ckpt", "--out", "b", "--format", "pfet"],
            ["'format' was given 'pfet'", "'peft', 'merged'"],
        ),
    ],
)
def test_a_wrong_command_line_gets_one_sentence(words: list[str], parts: list[str]) -> None:
    message = error_of(*words)
    for part in parts:
        assert part in message
    assert "Union" not in message and "Namespace" not in message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            {"model": {"class_path": "SoRAModule", "init_args": {"backbone": "playground", "rnk": 2}}},
            ["SoRAModule", "'rank'?"],
        ),
        ({"modle": {"class_path": "SoRAModule"}}, ["no option 'modle'", "Did you mean 'model'?"]),
        ({"trainer": {"max_epoch": 2}}, ["'trainer.max_epoch'", "'trainer.max_epochs'?"]),
        ({"data": {"class_path": "GLUEDatModule"}}, ["no class named 'GLUEDatModule'", "'GLUEDataModule'?"]),
    ],
)
def test_a_wrong_file_gets_one_sentence(tmp_path: Path, content: dict[str, Any], parts: list[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(content))
    message = error_of("fit", "--config", str(file))
    for part in parts:
        assert part in message


def test_a_file_that_is_not_utf8_gets_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"model: \xff\n")
    for words in (["--config", str(file)], [f"--config={file}"]):
        assert error_of("fit", *words) == f"{file}: byte 7 (0xff) is not UTF-8; save the file as UTF-8"


@pytest.mark.parametrize(
    ("verb", "part"), [("generate", "nothing to answer was given"), ("control", "no model was given")]
)
def test_a_verb_without_words_says_what_it_needs(verb: str, part: str) -> None:
    answer = ask(verb)
    assert answer.code == 1 and part in answer.err and "Traceback" not in answer.err


def test_options_are_not_abbreviated() -> None:
    assert "trainer.max_ep" in error_of("fit", *CLASSIFY, "--trainer.max_ep", "3")


def printed_model(file: Path, *words: str) -> dict[str, Any]:
    answer = ask("fit", "--config", str(file), *words, "--print_config")
    assert answer.code == 0, answer.err
    model: dict[str, Any] = yaml.safe_load(answer.out)["model"]
    return model


def test_switching_the_adapter_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    sora = {"class_path": "SoRA", "init_args": {"rank": 16, "alpha": 32.0, "threshold": 0.5}}
    model = {"class_path": "ClassificationModule", "init_args": {"backbone": "playground", "adapter": sora}}
    file.write_text(
        yaml.safe_dump({"model": model, "data": {"class_path": "GLUEDataModule", "init_args": {"path": "builtin"}}})
    )

    unchanged = printed_model(file)["init_args"]["adapter"]
    assert unchanged["class_path"].endswith("SoRA") and unchanged["init_args"]["threshold"] == 0.5

    switched = printed_model(file, "--model.adapter", "LoRA", "--model.adapter.rank", "4")["init_args"]["adapter"]
    assert switched["class_path"].rpartition(".")[2] == "LoRA"
    assert switched["init_args"]["rank"] == 4
    assert switched["init_args"]["alpha"] == 32.0  # an option that both have keeps the file's value
    assert "threshold" not in switched["init_args"]

    assert printed_model(file, "--model.adapter", "null")["init_args"]["adapter"] is None


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--model.rank", "0"], ["rank=0"]),
        (["--model.rank", "1000"], ["rank=1000", "at most"]),
        (["--model.targets", "nothing.like.it"], ["'nothing.like.it'", "matches none"]),
        (["--data.task", "sst3"], ["'sst3'", "did you mean 'sst2'?"]),
        (["--data.path", "nope.csv"], ["'nope.csv'"]),
        (["--trainer.accelerator", "gpu"], ["--trainer.accelerator gpu", "cpu and auto"]),
        (["--trainer.val_check_interval", "100000"], ["`val_check_interval` (100000) must be less than or equal"]),
        (["--seed_everything", "-1"], ["--seed_everything -1", "allowed are 0 to 4294967295"]),
    ],
)
def test_a_value_that_the_run_refuses_is_one_line_without_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], parts: list[str]
) -> None:
    import torch

    if "gpu" in words and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    answer = ask(*FIT, *words)
    assert answer.code == 1
    assert answer.err.count("fulgurite: error: ") == 1 and "Traceback" not in answer.err
    for part in parts:
        assert part in answer.err
    assert not list(tmp_path.rglob("config.yaml")) and not list(tmp_path.rglob("*.ckpt"))


def test_errors_that_nobody_foresaw_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    import fulgurite.commands.fit.trainer as trainer

    def broken(words: list[str]) -> None:
        [][1]

    monkeypatch.setattr(trainer, "run_trainer_verb", broken)
    with pytest.raises(IndexError):
        main(["fit"])


@pytest.mark.slow
def test_a_fit_leaves_everything_in_one_folder(run: Run) -> None:
    names = {str(file.relative_to(run.root)) for file in run.root.rglob("*") if file.is_file()}
    assert {
        "config.yaml",
        "sparsity.csv",
        "sparsity.png",
        "checkpoints/last.ckpt",
        "logs/version_0/metrics.csv",
    } <= names
    assert not [name for name in names if ".part" in name]
    assert (run.root / "sparsity.png").read_bytes().startswith(b"\x89PNG")
    config = yaml.safe_load((run.root / "config.yaml").read_text())
    assert config["model"]["init_args"]["rank"] == 4
    with open(run.root / "logs" / "version_0" / "metrics.csv") as stream:
        header = next(csv.reader(stream))
    assert {"train_loss", "val_accuracy"} <= set(header)


def test_a_fit_says_what_came_out_and_what_comes_next(run: Run) -> None:
    out = run.answer.out
    assert "first training example:" in out and "label: " in out
    assert "ranks left" in out and "best val_accuracy" in out
    assert (
        "fulgurite test --config runs/sora-glue-sst2/config.yaml --ckpt_path runs/sora-glue-sst2/checkpoints/last.ckpt"
        in out
    )
    assert "\x1b[" not in out  # no control codes where the output is no terminal
    assert "💡" not in out + run.answer.err and "litlogger" not in out + run.answer.err


def accuracy(answer: Answer, name: str) -> float:
    assert answer.code == 0, answer.err
    cells = [line.replace("│", " ").split() for line in answer.out.splitlines() if f" {name} " in line]
    return float(cells[0][1])


@pytest.mark.slow
def test_last_best_and_the_file_itself_give_the_same_figures_as_the_fit(run: Run) -> None:
    fitted = [line for line in run.answer.out.splitlines() if line.startswith("best val_accuracy")]
    best = accuracy(run.again("validate", "--ckpt_path", "best"), "val_accuracy")
    assert fitted[0].startswith(f"best val_accuracy {best:.4f} in")
    last = accuracy(run.again("test", "--ckpt_path", "last"), "test_accuracy")
    assert last == accuracy(run.again("test", "--ckpt_path", run.last), "test_accuracy")


@pytest.mark.parametrize("verb", ["test", "predict"])
def test_untrained_weights_are_not_tested(run: Run, verb: str) -> None:
    answer = run.again(verb)
    assert answer.code == 1
    assert "no --ckpt_path was given" in answer.err and "untrained" in answer.err


@pytest.mark.parametrize("wanted", ["last", "best"])
@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_checkpoint_that_is_not_there_is_an_error(run: Run, tmp_path: Path, verb: str, wanted: str) -> None:
    answer = run.again(verb, "--ckpt_path", wanted, "--trainer.default_root_dir", str(tmp_path))
    assert answer.code == 1
    assert f"--ckpt_path {wanted}" in answer.err and str(tmp_path / "checkpoints") in answer.err


def test_a_truncated_checkpoint_is_an_error(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(Path(run.last).read_bytes()[:4000])
    exported = ask("export", "--ckpt_path", str(broken), "--out", str(tmp_path / "out"))
    for answer in (run.again("test", "--ckpt_path", str(broken)), exported):
        assert answer.code == 1
        assert "broken.ckpt" in answer.err and "truncated" in answer.err
    assert [file.name for file in tmp_path.iterdir()] == ["broken.ckpt"]


def test_a_checkpoint_overrules_flags_and_says_so(run: Run) -> None:
    answer = run.again("test", "--ckpt_path", "last", "--model.rank", "2")
    assert answer.code == 0, answer.err
    warnings = [line for line in answer.err.splitlines() if line.startswith("fulgurite: warning: ")]
    assert len(warnings) == 1 and "--model.rank 2 (the checkpoint has 4)" in warnings[0]
    assert "warning" not in run.again("test", "--ckpt_path", "last").err
    default = run.again("test", "--ckpt_path", "last", "--model.rank", "8")  # what is said counts, a default or not
    assert "--model.rank 8 (the checkpoint has 4)" in default.err


def test_predictions_are_written(run: Run) -> None:
    answer = run.again("predict", "--ckpt_path", "last")
    assert answer.code == 0, answer.err
    rows = [json.loads(line) for line in (run.root / "predictions.jsonl").read_text().splitlines()]
    assert f"{len(rows)} predictions" in answer.out and len(rows) > 10
    assert {row["label"] for row in rows} <= {"negative", "positive"}
    assert all(row["prediction"] == max((0, 1), key=row["probability"].__getitem__) for row in rows)


def test_a_fit_that_ends_before_its_first_validation_still_leaves_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    answer = ask(*FIT, "--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false")
    assert answer.code == 0, answer.err
    saved = torch.load(tmp_path / "runs/sora-glue-sst2/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 2


@pytest.mark.slow
def test_resume_goes_on_from_the_last_step(run: Run, tmp_path: Path) -> None:
    import shutil

    import torch

    shutil.copytree(run.root, tmp_path / "copy")
    answer = ask(
        "fit", "--config", str(run.root / "config.yaml"), "--ckpt_path", "last",
        "--trainer.default_root_dir", str(tmp_path / "copy"), "--trainer.max_epochs", "3",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    saved = torch.load(tmp_path / "copy/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 12
    assert "first training example" not in answer.out
    assert yaml.safe_load((tmp_path / "copy/config.yaml").read_text()).get("ckpt_path") is None
