"""UltraChat2DataModule: domains from anywhere, balance, counts, further sources, bad input, and resuming in either stage."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fulgurite.datamodules import UltraChat2DataModule

TEMPLATES = ["ultrachat", "mistral", "wizardmath"]


def rows(name: str, count: int) -> list[dict[str, str]]:
    return [{"instruction": f"{name} question {i}?", "output": f"{name} answer {i}"} for i in range(count)]


def write(path: Path, content: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in (("text", 30), ("code", 12), ("maths", 20)):
        write(tmp_path / "rows" / f"{name}.jsonl", rows(name, count))
    return tmp_path / "rows"


def make(tmp_path: Path, path: Any, **options: Any) -> UltraChat2DataModule:
    defaults: dict[str, Any] = {"batch_size": [2, 1], "max_length": 256, "val_fraction": 0.1, "templates": TEMPLATES}
    defaults |= {"tokenizer": "playground", "cache_dir": str(tmp_path / "cache")}
    return UltraChat2DataModule(path, **{**defaults, **options})


def test_domains_of_a_folder_are_balanced_and_validate_in_part(tmp_path: Path, folder: Path) -> None:
    data = make(tmp_path, str(folder))
    data.setup("fit")
    assert data.tag_names == ["text", "code", "maths"]
    batches = list(data.train_dataloader())
    assert len(batches) == 14, "each of at most 30 rows of the largest domain once, less those that validate"
    for batch in batches:
        assert torch.bincount(batch["tag"]).tolist() == [2, 2, 2]
        assert len(batch["input_ids"]) == 3 and int(batch["tokens_in_window"]) == len(batch["targets"])
    seen = {int(t) for batch in data.val_dataloader() for t in batch["tag"]}
    assert seen <= {0, 1, 2} and sum(len(b["tag"]) for b in data.val_dataloader()) == 6
    told = data.describe()
    assert "14 batches, 14 optimizer steps" in told and "code 1" in told


def test_each_row_keeps_the_domain_it_came_from_whatever_its_schema_says(tmp_path: Path) -> None:
    tasks = [{"task": "Coding", "instruction": f"do {i}", "response": f"done {i}"} for i in range(9)]
    places = {
        "text": write(tmp_path / "a.jsonl", rows("text", 9)),
        "code": write(tmp_path / "b.jsonl", tasks),
        "maths": write(tmp_path / "c.jsonl", rows("maths", 9)),
    }
    data = make(tmp_path, places, val_fraction=0.0)
    data.setup("fit")
    assert data.tag_names == ["text", "code", "maths"]
    texts = data.tokenizers[0].batch_decode(next(iter(data.train_dataloader()))["input_ids"][0])
    assert ["text" in text for text in texts] == [True, True, False, False, False, False]
    assert ["do " in text for text in texts] == [False, False, True, True, False, False]


def test_further_sources_join_their_domain_in_training_only(tmp_path: Path, folder: Path) -> None:
    extra = write(tmp_path / "evol.jsonl", rows("evolved", 8))
    data = make(tmp_path, str(folder), evol_instruct=extra, val_fraction=0.0)
    data.setup("fit")
    (report,) = data.reports()
    assert report.shares == {"text": 30, "code": 20, "maths": 20}
    with pytest.raises(
        ValueError, match="evol_instruct is added to the domain 'code'; the domains of path are 'prose'"
    ):
        make(tmp_path, {"prose": "builtin"}, evol_instruct=extra)


@pytest.mark.slow
def test_bad_input_is_one_clear_error(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="UltraChat 2 itself was not released"):
        make(tmp_path, "openbmb/UltraChat2")
    (folder / "code.jsonl").rename(folder / "other.jsonl")
    with pytest.raises(ValueError, match="begins with 'code'; found nothing"):
        make(tmp_path, str(folder))
    # Every row of one domain is too long: it runs empty.
    long = [{"instruction": "w " * 300, "output": "x"}] * 5
    places = {"text": str(folder / "text.jsonl"), "code": write(tmp_path / "long.jsonl", long), "maths": "builtin"}
    data = make(tmp_path, places, val_fraction=0.0, limit_train=40)
    with pytest.raises(ValueError, match=r"'code' has no row \(text \d+, code 0, maths \d+\)"):
        data.setup("fit")
    with pytest.raises(ValueError, match="which leaves no room for the response; max_length is 256"):
        make(tmp_path, {"code": places["code"]}, val_fraction=0.0, too_long="error").setup("fit")
    data = make(tmp_path, "builtin", batch_size=[1, 2, 3], limit_train=60)
    with pytest.raises(ValueError, match=r"batch_size has 3 numbers, \[1, 2, 3\], for 2 stages"):
        Trainer(accelerator="cpu", max_epochs=1, logger=False, default_root_dir=tmp_path).fit(Recorder(), data)
    with pytest.raises(ValueError, match="no specialists were given"):
        UltraChat2DataModule("builtin").setup("fit")
    with pytest.raises(ValueError, match="2 templates for 3 specialists"):
        make(tmp_path, "builtin", specialists=["playground"] * 3, templates=TEMPLATES[:2]).setup("fit")


def test_too_few_rows_are_an_error_only_where_they_may_not_repeat(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"too few are there of .*code \d+"):
        make(tmp_path, str(folder), repeat=False).setup("fit")


class Killed(RuntimeError):
    """Stands for a kill."""


class Recorder(LightningModule):
    """Records the answers of each batch; its stages are those of a fuser."""

    stage_steps = (3, 4)

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.stop_at, self.seen = stop_at, []

    def training_step(self, batch: dict[str, Any], index: int) -> torch.Tensor:
        if len(self.seen) == self.stop_at:
            raise Killed
        self.seen.append((batch["targets"].tolist(), int(batch["tokens_in_window"]), len(batch["tag"])))
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(tmp_path: Path, folder: Path, model: Recorder, ckpt: str | None = None) -> None:
    keeper = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=2, limit_val_batches=0, callbacks=[keeper], logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with suppress(Killed):
        trainer.fit(model, make(tmp_path, str(folder)), ckpt_path=ckpt)


@pytest.mark.parametrize("killed_at", [4, 10])
def test_a_run_killed_in_either_stage_goes_on_with_the_same_batches(
    tmp_path: Path, folder: Path, killed_at: int
) -> None:
    whole, killed, resumed = Recorder(), Recorder(stop_at=killed_at), Recorder()
    fit(tmp_path / "a", folder, whole)
    assert [size for *_, size in whole.seen] == [6] * 6 + [3] * 8
    fit(tmp_path / "b", folder, killed)
    fit(tmp_path / "b", folder, resumed, str(tmp_path / "b" / "ckpt" / f"step={killed_at // 2}.ckpt"))
    assert killed.seen + resumed.seen == whole.seen


@pytest.mark.real_data
def test_real_rows_of_three_schemas(tmp_path: Path, real_data: Path) -> None:
    places = {
        "text": str(real_data / "sft" / "alpaca" / "alpaca_en_demo.json"),
        "code": str(real_data / "sft" / "ultrainteract" / "readme_example_rows.jsonl"),
        "maths": str(real_data / "math" / "gsm8k" / "test_socratic.head-200.jsonl"),
    }
    columns = {"instruction": "question", "output": "answer"}
    data = make(tmp_path, places, columns=columns, max_length=1500, val_fraction=0.0)
    data.setup("fit")
    (report,) = data.reports()
    assert report.shares["maths"] == 200 and report.shares["text"] > 900 and report.shares["code"] >= 1
    assert report.rows + report.tally.lost == report.tally.rows == 999 + 3 + 200
    batch = next(iter(data.train_dataloader()))
    tokenizer = data.tokenizers[0]
    views = [[tokenizer.decode(ids[ids != tokenizer.pad_token_id]) for ids in view] for view in batch["input_ids"]]
    for row, parts in enumerate(zip(*views, strict=True)):
        answer = tokenizer.decode(batch["targets"][batch["row"] == row][:-1])
        assert all(part.endswith(answer) for part in parts)
        assert "[INST]" in parts[1] and "### Response:" in parts[2]
