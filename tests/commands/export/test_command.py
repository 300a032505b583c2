"""`export`: what it writes computes what was trained, or nothing is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fulgurite.commands.export.command as export_module
from fulgurite.adapters import APET, SparseAdapter, find_adapters, load_adapter
from fulgurite.commands.export.command import export
from fulgurite.commands.shared.checkpoint_files import find_checkpoint, load_module, read_checkpoint

# Of the largest logit, in fp32. Measured 1.1e-6: the logits of an untrained head are only 0.3, so rounding weighs more.
CLOSE = 5e-6


def make_checkpoint(file: Path, **options: Any) -> Path:
    """A checkpoint of a SoRA classifier with moved weights and some gates at zero, as a fit leaves it."""
    from lightning.pytorch import Trainer

    from fulgurite.callbacks import AdapterCheckpoint
    from fulgurite.lightning_modules import ClassificationModule, SoRAModule

    torch.manual_seed(0)
    if options.pop("full", False):
        module: Any = ClassificationModule(backbone="playground", num_labels=2)
    elif (apet := options.pop("apet", None)) is not None:
        module = ClassificationModule(backbone="playground", adapter=apet, num_labels=2, **options)
    else:
        module = SoRAModule(backbone="playground", rank=4, num_labels=2, **options)
    module.configure_model()
    for adapter in find_adapters(module):
        if isinstance(adapter, SparseAdapter):
            for delta in adapter.deltas.values():
                nn.init.normal_(delta, std=0.02)
            adapter.sync()
            continue
        for branch in adapter.branches.values():
            nn.init.normal_(branch.lora_b, std=0.02)
            branch.gate.data[:2] = 0
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[AdapterCheckpoint()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.strategy.connect(module)
    trainer.save_checkpoint(file)
    return file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("export") / "last.ckpt")


def logits_of(network: nn.Module) -> torch.Tensor:
    ids = torch.randint(5, 200, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits: torch.Tensor = network.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits


def expected_logits(checkpoint: Path) -> torch.Tensor:
    network = load_module(checkpoint).network
    assert network is not None
    return logits_of(network)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("rank_pattern", [False, True])
def test_stock_peft_loads_the_folder(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rank_pattern: bool
) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    out = tmp_path / "peft"
    export(str(checkpoint), str(out), rank_pattern=rank_pattern)
    printed = capsys.readouterr().out
    assert "max |PEFT − adapter| = " in printed and "merged −" not in printed, "nothing is merged that need not be"
    config = json.loads((out / "adapter_config.json").read_text())
    base = AutoModelForSequenceClassification.from_pretrained(config["base_model_name_or_path"], num_labels=2)
    expected = expected_logits(checkpoint)
    assert relative(logits_of(base), expected) > 1e-3  # the adapter changes something
    assert relative(logits_of(peft.PeftModel.from_pretrained(base, str(out))), expected) < CLOSE
    assert AutoTokenizer.from_pretrained(out).vocab_size > 0


def test_merged_folder_is_a_plain_transformers_model(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForSequenceClassification

    out = tmp_path / "merged"
    export(str(checkpoint), str(out), format="merged")
    assert "max |reloaded − adapter| = " in capsys.readouterr().out
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert not [key for key in model.state_dict() if "lora" in key or "branches" in key]
    assert relative(logits_of(model), expected_logits(checkpoint)) < CLOSE


def test_adapter_folder_loads_into_a_fresh_base(checkpoint: Path, tmp_path: Path) -> None:
    from fulgurite.adapters import load_adapter
    from fulgurite.data.playground import resolve_backbone
    from fulgurite.models import load_backbone

    out = tmp_path / "adapter"
    export(str(checkpoint), str(out), format="adapter")
    base = load_backbone(resolve_backbone("playground"), "classification", num_labels=2).model
    load_adapter(base, out)
    assert relative(logits_of(base), expected_logits(checkpoint)) < CLOSE


def test_a_wrong_merge_is_caught_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fulgurite.adapters import LowRankAdapter

    honest = LowRankAdapter.merge

    def wrong(self: LowRankAdapter, reversible: bool = False) -> int:
        kept = honest(self, reversible)
        next(iter(self.layers.values())).weight.data.mul_(1.01)
        return kept

    monkeypatch.setattr(LowRankAdapter, "merge", wrong)
    with pytest.raises(ValueError, match=r"the merged model differs .* nothing was written"):
        export(str(checkpoint), str(tmp_path / "out"), format="merged")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_the_old_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("kept")
    (out / "adapter_config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="--overwrite true"):
        export(str(checkpoint), str(out))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(export_module, "with_peft", interrupted)
        export(str(checkpoint), str(out), overwrite=True)
    assert (out / "old.txt").read_text() == "kept" and len(list(tmp_path.iterdir())) == 1
    export(str(checkpoint), str(out), overwrite=True)
    assert not (out / "old.txt").exists() and (out / "adapter_config.json").exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_full_tuning_has_only_a_merged_form(tmp_path: Path) -> None:
    file = make_checkpoint(tmp_path / "full.ckpt", full=True)
    with pytest.raises(ValueError, match="--format merged"):
        export(str(file), str(tmp_path / "out"))
    export(str(file), str(tmp_path / "out"), format="merged")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_checkpoint(tmp_path / "none.ckpt")
    for name, content in (("empty.ckpt", b""), ("text.ckpt", b"not a checkpoint")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            read_checkpoint(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="no state_dict"):
        read_checkpoint(tmp_path / "list.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {"a": 1}}, tmp_path / "mine.ckpt")
    with pytest.raises(ValueError, match="name no class"):
        load_module(tmp_path / "mine.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {"_class_path": "torch.nn.Linear"}}, tmp_path / "linear.ckpt")
    with pytest.raises(ValueError, match="not a FinetuneModule"):
        load_module(tmp_path / "linear.ckpt")


def test_best_is_found_where_the_folder_was_moved(tmp_path: Path) -> None:
    (tmp_path / "epoch=1.ckpt").write_bytes(b"x")
    torch.save(
        {"state_dict": {}, "callbacks": {"ModelCheckpoint": {"best_model_path": "/gone/epoch=1.ckpt"}}},
        tmp_path / "last.ckpt",
    )
    assert find_checkpoint("best", tmp_path, "test") == str(tmp_path / "epoch=1.ckpt")
    (tmp_path / "epoch=1.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match="names no best checkpoint"):
        find_checkpoint("best", tmp_path, "test")


def test_a_base_in_bf16_is_compared_with_the_same_rounded_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    file = make_checkpoint(tmp_path / "bf16.ckpt", dtype="bfloat16")
    export(str(file), str(tmp_path / "peft"))
    assert "max |PEFT − adapter| = " in capsys.readouterr().out
    export(str(file), str(tmp_path / "merged"), format="merged")
    assert "stored in torch.bfloat16" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_apet_exports_merged_adapter_and_shira(dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fulgurite.models import load_backbone

    checkpoint = make_checkpoint(tmp_path / "last.ckpt", apet=APET(budget=3000, targets="all-linear"), dtype=dtype)
    assert read_checkpoint(checkpoint)["state_dict"].keys() == {
        key for key in read_checkpoint(checkpoint)["state_dict"] if ".branches." in key or ".score." in key
    }, "the base stays out"
    for format in ("merged", "adapter", "peft"):
        export(str(checkpoint), str(tmp_path / format), format=format)  # type: ignore[arg-type]
    told = capsys.readouterr().out
    assert "3,000 of" in told and ("PEFT" in told or "pip install peft" in told)
    expected = expected_logits(checkpoint)
    base = load_module(checkpoint).backbone_folder
    merged = load_backbone(str(tmp_path / "merged"), "classification", num_labels=2, dtype=dtype).model
    assert relative(logits_of(merged), expected) < CLOSE
    fresh = load_backbone(base, "classification", num_labels=2, dtype=dtype).model
    load_adapter(fresh, tmp_path / "adapter")
    assert relative(logits_of(fresh), expected) < CLOSE
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["peft_type"] == "SHIRA"


def test_apet_outside_of_linear_layers_has_no_peft_layout(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "last.ckpt", apet=APET(budget=3000))
    with pytest.raises(ValueError, match="do not lie in the weight of a linear layer"):
        export(str(checkpoint), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    export(str(checkpoint), str(tmp_path / "merged"), format="merged")


def test_what_is_no_earlier_export_is_not_replaced(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    mine = run / "checkpoints" / "last.ckpt"
    mine.write_bytes(checkpoint.read_bytes())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a")
    (tmp_path / "file").write_text("a")
    before = sorted(tmp_path.rglob("*"))
    for out, words in (
        (str(run), "holds the checkpoint"),
        (str(run / "checkpoints"), "holds the checkpoint"),
        (str(tmp_path), "holds the checkpoint"),
        (str(tmp_path / "notes"), "holds something other than an earlier export"),
        (str(tmp_path / "file"), "is a file, which is not replaced"),
        ("", "--out is empty"),
    ):
        with pytest.raises((ValueError, FileExistsError), match=words):
            export(str(mine), out, overwrite=True)
    monkeypatch.chdir(tmp_path / "notes")
    for out in (".", "..", "/"):
        with pytest.raises(ValueError, match="is the current folder, or one around it"):
            export(str(checkpoint), out, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_base_model_is_not_replaced(tmp_path: Path) -> None:
    import shutil

    from fulgurite.data.playground import resolve_backbone
    from fulgurite.lightning_modules import ClassificationModule

    base = tmp_path / "base"
    shutil.copytree(resolve_backbone("playground"), base)
    whole = ClassificationModule(backbone=str(base), num_labels=2)
    whole.configure_model()
    trainer = pytest.importorskip("lightning.pytorch").Trainer(accelerator="cpu", logger=False)
    trainer.strategy.connect(whole)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="holds the base model"):
        export(str(tmp_path / "last.ckpt"), str(base), format="merged", overwrite=True)
    assert (base / "config.json").is_file()


def test_an_export_that_cannot_take_its_place_gives_the_old_one_back(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(str(checkpoint), str(out), format="adapter")
    honest = Path.replace

    def refuses(self: Path, target: Path) -> Path:
        if target == out and not self.name.endswith(".old"):
            raise OSError("no room")
        return honest(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no room"):
        patch.setattr(Path, "replace", refuses)
        export(str(checkpoint), str(out), format="adapter", overwrite=True)
    assert (out / "adapter.json").is_file() and [file.name for file in tmp_path.iterdir()] == ["out"]


def test_weights_that_are_not_finite_are_named(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    name = next(name for name in content["state_dict"] if name.endswith("lora_b"))
    content["state_dict"][name].fill_(torch.nan)
    torch.save(content, tmp_path / "nan.ckpt")
    with pytest.raises(ValueError, match=r"holds NaN or infinity.*take an earlier checkpoint"):
        export(str(tmp_path / "nan.ckpt"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
