"""Nobody's Python runs because a checkpoint or a configuration file asks for it."""

from pathlib import Path

import pytest
import torch
import yaml

from fulgurite.cli import main
from tests.commands.fit.runs import SMALL, checkpoint_of, evil_backbone


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def checkpoint(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose hyperparameters ask for code of its backbone's folder."""
    from fulgurite.adapters import LoRA
    from fulgurite.lightning_modules import SFTModule

    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.chdir(tmp_path)
    base = evil_backbone(tmp_path / "base", marker)
    file = checkpoint_of(SFTModule(str(base), adapter=LoRA(rank=2)), tmp_path / "evil.ckpt")
    content = torch.load(file, weights_only=True)
    content["hyper_parameters"]["trust_remote_code"] = True
    torch.save(content, file)
    assert not marker.exists()
    return file


COMMANDS = {
    "generate": ["generate", "--model", "evil.ckpt", "--prompt", "a", "--max_new_tokens", "1"],
    "merged": ["export", "--ckpt_path", "evil.ckpt", "--out", "out", "--format", "merged"],
    "peft": ["export", "--ckpt_path", "evil.ckpt", "--out", "out"],
    "score": ["score", "--model", "evil.ckpt", "--file", "rows.jsonl", "--output", "out.jsonl"],
    "control": ["control", "--model", "evil.ckpt"],
    "evaluate": "evaluate --tasks gsm8k --path rows.jsonl --model evil.ckpt --out eval --max_new_tokens 1".split(),
    "validate": ["validate", "--ckpt_path", "evil.ckpt", *SMALL],
    "validate, false typed": ["validate", "--ckpt_path", "evil.ckpt", *SMALL, "--model.trust_remote_code", "false"],
    "fit": ["fit", "--ckpt_path", "evil.ckpt", *SMALL, "--trainer.max_steps", "1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_checkpoint_does_not_switch_remote_code_on(
    checkpoint: Path, marker: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint.parent / "rows.jsonl").write_text(
        '{"prompt": "a", "completion": "b", "question": "1 + 1?", "answer": "2 #### 2"}\n'
    )
    main(COMMANDS[name])
    assert not marker.exists(), capsys.readouterr().err
    if name == "validate":
        assert "evil.ckpt asks for trust_remote_code" in capsys.readouterr().err


def test_it_runs_where_it_is_typed(checkpoint: Path, marker: Path) -> None:
    assert main([*COMMANDS["generate"], "--trust_remote_code", "true"]) == 0
    assert marker.exists()


@pytest.mark.slow
def test_a_configuration_file_does_not_switch_it_on_either(
    checkpoint: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "model": {"class_path": "SFTModule", "init_args": {"backbone": "base", "trust_remote_code": True}},
        "data": {"class_path": "UltraChatDataModule", "init_args": {"path": "builtin", "limit_train": 8}},
        "trainer": {"accelerator": "cpu", "limit_val_batches": 1, "enable_progress_bar": False},
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))
    assert main(["validate", "--config", "run.yaml"]) == 0
    assert not marker.exists() and "that counts only where it is typed" in capsys.readouterr().err
    assert main(["validate", "--config", "run.yaml", "--model.trust_remote_code", "true"]) == 0
    assert marker.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], False),
        (["--model.trust_remote_code", "true"], True),
        (["--model.trust_remote_code=true"], True),
        (["--model.init_args.trust_remote_code=true"], True),
        (["--model.trust_remote_code", "true", "--model.trust_remote_code", "false"], False),
        (["--data.trust_remote_code=true"], False),
    ],
)
def test_what_counts_as_typed(words: list[str], expected: bool) -> None:
    from fulgurite.commands.fit.permissions import only_typed_permissions

    model = {"init_args": {"trust_remote_code": True}}
    only_typed_permissions(model, words)
    assert model["init_args"]["trust_remote_code"] is expected
