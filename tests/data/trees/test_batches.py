"""Data modules of preferences: each layout holds the same pairs, nothing leaks, runs resume, and what is wrong is told."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fulgurite.data.playground import builtin_rows
from fulgurite.data.sources.locate import split_files
from fulgurite.data.trees.packing import interleaved
from fulgurite.datamodules.preferences import PreferenceDataModule
from fulgurite.datamodules.ultrafeedback import UltraFeedbackDataModule
from fulgurite.datamodules.ultrainteract import UltraInteractPairDataModule
from tests.data.trees.tree_batches import completions, pairs

Make = Callable[..., PreferenceDataModule]


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each schema, with few rows."""
    folder = tmp_path_factory.mktemp("rows")
    for schema in ("ultrainteract_pair", "ultrafeedback", "ultrafeedback_binarized", "unpaired"):
        for split, count in (("train", 250), ("validation", 30)):
            write(folder / schema / f"{split}.jsonl", builtin_rows(schema, split, count=count))
    return folder


@pytest.fixture
def make(tmp_path: Path, rows: Path) -> Make:
    def made(kind: type[PreferenceDataModule] = PreferenceDataModule, **options: Any) -> PreferenceDataModule:
        folder = rows / (options["schema"] if options.get("schema") == "unpaired" else kind.builtin_schema)
        given = {
            "path": str(folder),
            "tokenizer": "playground",
            "max_length": 512,
            "cache_dir": str(tmp_path / "cache"),
        }
        return kind(**{**given, "limit_train": 60, "batch_size": 2, **options})

    return made


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def loaded(data: PreferenceDataModule, split: str = "train") -> list[dict[str, torch.Tensor]]:
    loader = data.fixed_order_dataloader(split)
    assert loader is not None
    return list(loader)


def test_layouts_hold_the_same_pairs(make: Make) -> None:
    found = {}
    tokens = {}
    for name, options in {
        "trees": {},
        "cut": {"token_budget": 512},
        "roots": {"trees": False},
        "padded": {"packing": False},
    }.items():
        data = make(UltraInteractPairDataModule, **options)
        data.setup("fit")
        batches = loaded(data)
        found[name] = Counter(pair for batch in batches for pair in pairs(batch))
        tokens[name] = sum(
            int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum()) for batch in batches
        )
        train = list(data.train_dataloader())
        assert Counter(pair for batch in train for pair in pairs(batch)) == found[name]
        assert sum(int(batch["tokens_in_window"]) for batch in train) == 60
        assert all(int(batch["tokens_in_window"]) == len(batch["pairs"]) for batch in train)
        assert ("attention_mask" in batches[0]) == (name == "padded")
    assert found["trees"] == found["cut"] == found["roots"] == found["padded"]
    assert sum(found["trees"].values()) == 60
    assert tokens["trees"] < 0.6 * tokens["roots"] and tokens["trees"] <= tokens["cut"]
    assert tokens["roots"] == tokens["padded"]


@pytest.mark.slow
def test_chosen_and_rejected_are_those_of_the_rows(make: Make) -> None:
    data = make(UltraInteractPairDataModule, path="builtin", limit_train=None)
    rows = {(row["chosen"], row["rejected"]) for row in builtin_rows("ultrainteract_pair", "train")}
    data.setup("fit")
    tokenizer = data.load_tokenizer()

    def text(path: tuple[tuple[int, ...], int]) -> str:
        return str(tokenizer.decode(path[0][path[1] :], skip_special_tokens=True))

    found = {(text(a), text(b)) for batch in loaded(data) for a, b, _, _ in pairs(batch)}
    assert found <= rows and len(found) > 0.9 * len(rows)
    assert data.objective_kind == "pairs" and data.task_type == "preference" and data.tag_names[0] == "Coding"


def test_the_four_answers_of_ultrafeedback_are_one_tree(make: Make) -> None:
    data = make(UltraFeedbackDataModule)
    data.setup("fit")
    (report, _) = data.reports()
    assert any("times as many" in line for line in report.lines())
    batches = loaded(data)
    assert sum(len(batch["pairs"]) for batch in batches) == report.units  # type: ignore[attr-defined]
    assert 4 < report.units / 60 <= 6  # type: ignore[attr-defined]
    assert all(float(batch["pair_margin"].min()) > 0 for batch in batches)
    groups = make(UltraFeedbackDataModule, objective_kind="groups")
    groups.setup("fit")
    for batch in loaded(groups):
        assert torch.bincount(batch["group"]).tolist() == [4] * (int(batch["group"].max()) + 1)
        assert batch["score"].isfinite().all() and len(batch["pairs"]) == 0
    assert groups.objective_kind == "groups"


def test_rules_and_scores_change_the_pairs_and_the_cache(make: Make, tmp_path: Path) -> None:
    units = {}
    for name, options in {
        "all": {},
        "best_vs_random": {"pair_rule": "best_vs_random"},
        "overall": {"pair_rule": "best_vs_random", "score": "overall"},
    }.items():
        data = make(UltraFeedbackDataModule, **options)
        data.setup("fit")
        units[name] = Counter(pair[:2] for batch in loaded(data) for pair in pairs(batch))
    assert sum(units["best_vs_random"].values()) <= 60 < sum(units["all"].values())
    assert units["best_vs_random"] != units["overall"]
    assert len(list((tmp_path / "cache" / "preferences").iterdir())) == 6


def test_labels_come_with_mismatched_answers_and_in_turn(make: Make) -> None:
    data = make(schema="unpaired", limit_train=200, max_length=128, batch_size=1)
    data.setup("fit")
    assert data.objective_kind == "labels"
    both = 0
    batches = list(data.train_dataloader())
    for batch in batches:
        labels = batch["desirable"]
        assert int(batch["kl"].sum()) == int((labels >= 0).sum()) == int(batch["tokens_in_window"])
        assert not bool((batch["kl"] & (labels >= 0)).any())
        both += 0 in labels.tolist() and 1 in labels.tolist()
        own = {completions(batch)[i] for i in (labels >= 0).nonzero().flatten().tolist()}
        kl = {completions(batch)[i] for i in batch["kl"].nonzero().flatten().tolist()}
        assert not own & kl
    assert both >= 0.9 * len(batches) > 5


def test_packs_hold_as_many_of_one_label_as_of_the_other_whatever_their_lengths(make: Make, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{i}", "completion": " good" * 40 if i % 2 else f" bad {i}", "label": bool(i % 2)}
        for i in range(40)
    ]
    data = make(
        path=write(tmp_path / "a.jsonl", rows), schema="unpaired", max_length=128, val_fraction=0.0, batch_size=1
    )
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) > 5
    assert all((batch["desirable"] == 1).sum() == (batch["desirable"] == 0).sum() for batch in batches)


def test_blocks_hold_both_labels_as_evenly_as_can_be() -> None:
    labels = torch.tensor([1] * 5 + [-1] * 15 + [0])
    blocks = interleaved(torch.full((21,), 10), labels, torch.arange(21), 100, seed=0)
    assert sorted(i for block in blocks for i in block) == list(range(21))
    assert sorted([sorted(labels[block].tolist()) for block in blocks]) == [[-1, -1, -1, 1]] * 5 + [[0]]
    small = interleaved(torch.full((21,), 10), labels, torch.arange(21), 20, seed=0)
    assert max(map(len, small)) == 2 and sorted(i for block in small for i in block) == list(range(21))
    one = interleaved(torch.full((3,), 10), torch.tensor([1, 1, 1]), torch.arange(3), 20, seed=0)
    assert sorted(one) == [[0], [1], [2]]


def test_pairs_can_be_labels(make: Make) -> None:
    data = make(objective_kind="labels")
    data.setup("fit")
    desirable = torch.cat([batch["desirable"] for batch in loaded(data)])
    assert (desirable == 1).sum() == (desirable == 0).sum() == 60


def test_one_label_alone_is_refused(make: Make, tmp_path: Path) -> None:
    rows = [row for row in builtin_rows("unpaired", "train", count=60) if row["label"]]
    with pytest.raises(
        ValueError, match=r"all labels of the train rows are True; KTO needs .*; check the column 'label'"
    ):
        make(path=write(tmp_path / "a.jsonl", rows)).setup("fit")
    # Where the other label is one that cannot be read, the error says which rows it was lost with.
    rows += [{**row, "label": -1} for row in rows[:3]]
    with pytest.raises(ValueError, match=r"are True; KTO needs .*\n  3 left out, not a label: .*'label' holds '-1'"):
        make(path=write(tmp_path / "b.jsonl", rows), val_fraction=0.0).setup("fit")


def test_groups_are_never_split_and_limits_take_whole_ones(make: Make, tmp_path: Path) -> None:
    path = write(tmp_path / "trees.jsonl", builtin_rows("ultrainteract_pair", "train", count=200))
    data = make(path=path, val_fraction=0.2, limit_train=None)
    data.setup("fit")
    tokenizer = data.load_tokenizer()
    prompts = {}
    for split in ("train", "val"):
        texts = [tokenizer.decode(path) for batch in loaded(data, split) for path, _ in completions(batch)]
        assert all("<|user|>" in text for text in texts)
        prompts[split] = {text.split("<|assistant|>")[0] for text in texts}
    assert not prompts["train"] & prompts["val"]
    units = {report.split: report.units for report in data.reports()}  # type: ignore[attr-defined]
    assert units["train"] + units["val"] == 200 and 30 <= units["val"] <= 40
    limited = make(path=path, val_fraction=0.2, limit_train=50)
    limited.setup("fit")
    (train, _) = limited.reports()
    assert train.units == 50 and train.rows < 30  # type: ignore[attr-defined]


def test_a_limit_and_what_it_loses_are_both_said(make: Make, tmp_path: Path) -> None:
    """Rows are taken before their lengths are known: 40 asked for, and fewer trained on."""
    pairs = [{"prompt": f"{i}? " + "word " * 90 * (i % 2), "chosen": "yes", "rejected": "no"} for i in range(40)]
    path = write(tmp_path / "pairs.jsonl", pairs)
    data = make(path=path, schema="preference", val_fraction=0.0, limit_train=20, max_length=64, on_bad_row="skip")
    data.setup("fit")
    (report,) = data.reports()
    lost, units = report.tally.lost, report.units  # type: ignore[attr-defined]
    assert 0 < lost < 20 and units == 20 - lost
    assert f"{units}; 40 rows were read, limit_train took 20 of them, {lost} left out" in data.describe()


def test_the_cache_is_read_again_and_a_damaged_one_is_made_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make().setup("fit")
    files = sorted((tmp_path / "cache" / "preferences").iterdir())
    assert len(files) == 2
    again = make()
    with monkeypatch.context() as patch:
        patch.setattr("fulgurite.datamodules.preferences.prepare_trees", None)
        again.setup("fit")
        assert sum(len(batch["pairs"]) for batch in loaded(again)) == 60
    files[0].write_bytes(files[0].read_bytes()[:500])
    make().setup("fit")
    assert "is damaged" in caplog.text
    assert sorted((tmp_path / "cache" / "preferences").iterdir()) == files


def test_what_is_left_out_is_reported(make: Make, tmp_path: Path) -> None:
    rows = builtin_rows("ultrafeedback_binarized", "train", count=30)
    long = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b " * 600}]
    rows += [
        {**rows[0], "rejected": rows[0]["chosen"]},
        {**rows[0], "chosen": long, "rejected": [long[0], rows[0]["chosen"][1]]},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    data = make(path=path, limit_train=None, val_fraction=0.0)
    data.setup("fit")
    text = data.describe()
    assert "30; 32 rows were read, 2 left out" in text
    assert f"1 left out, chosen equal to rejected: {path}, line 31: both dialogues are the same" in text
    assert f"1 left out, longer than max_length: {path}, line 32" in text
    with pytest.raises(ValueError, match="line 31: chosen equal to rejected"):
        make(path=path, on_bad_row="error", limit_train=None).setup("fit")
    with pytest.raises(
        ValueError, match=r"no preference of .* is left for train; raise max_length(.|\n)*longer than max_length"
    ):
        make(path=path, max_length=8, limit_train=None, val_fraction=0.0).setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_budget": 100}, "token_budget is 100; a pack must hold one path of max_length=512"),
        ({"objective_kind": "pair"}, "objective_kind is 'pair'; allowed are 'pairs', 'labels', 'groups'"),
        ({"pair_rule": "best"}, "pair_rule is 'best'; allowed are 'all'"),
        ({"score": "meen"}, "score 'meen'; allowed are mean"),
        ({"schema": "ultrainteract"}, "did you mean 'ultrainteract_pair'"),
        ({"path": None}, "no path was given"),
    ],
)
def test_options_outside_those_allowed(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_one_split_of_pairs_and_another_of_labels(make: Make, tmp_path: Path) -> None:
    val = write(tmp_path / "val.jsonl", builtin_rows("unpaired", "validation", count=20))
    with pytest.raises(ValueError, match="one split holds pairs and another labels"):
        make(val_path=val).setup("fit")


def test_files_of_published_folders(tmp_path: Path) -> None:
    for name in ("train_sft-0.parquet", "train_prefs-0.parquet", "test_prefs-0.parquet", "train_gen-0.parquet"):
        (tmp_path / name).touch()
    assert [path.name for path in split_files(tmp_path, "train", "prefs")] == ["train_prefs-0.parquet"]
    assert [path.name for path in split_files(tmp_path, "test", "prefs")] == ["test_prefs-0.parquet"]
    assert [path.name for path in split_files(tmp_path, "train")] == ["train_sft-0.parquet"]
    (tmp_path / "b").mkdir()
    for name in ("0000_pair.parquet", "0000_sft.parquet"):
        (tmp_path / "b" / name).touch()
    assert [path.name for path in split_files(tmp_path / "b", "train", "prefs")] == ["0000_pair.parquet"]


def test_some_training_trees_in_evaluation_mode(make: Make) -> None:
    data = make()
    data.setup("fit")
    batches = list(data.train_subset_dataloader(20))
    assert 20 <= sum(len(batch["pairs"]) for batch in batches) < 26
    assert "tokens_in_window" not in batches[0]
    predicted = list(data.predict_dataloader())
    assert sum(len(batch["pairs"]) for batch in predicted) == 30


class Killed(RuntimeError):
    """Stands for a kill in the middle of an epoch."""


class Recorder(LightningModule):
    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.stop_at = stop_at
        self.seen: list[tuple[Any, ...]] = []

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        if self.stop_at is not None and len(self.seen) == self.stop_at:
            raise Killed
        self.seen.append((self.current_epoch, int(batch["tokens_in_window"]), *batch["key"].tolist()))
        loss: torch.Tensor = self.layer(torch.ones(1, 1)).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("accumulate", "stop_at"), [(1, 5), (2, 7)])
def test_a_run_resumes_in_the_middle_of_an_epoch(make: Make, tmp_path: Path, accumulate: int, stop_at: int) -> None:
    def fit(model: Recorder, saved: ModelCheckpoint | None = None, ckpt: str | None = None) -> Recorder:
        trainer = Trainer(
            accelerator="cpu",
            accumulate_grad_batches=accumulate,
            callbacks=[saved] if saved else [],
            enable_checkpointing=saved is not None,
            default_root_dir=tmp_path,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            max_epochs=2,
            limit_val_batches=0,
        )
        with suppress(Killed):
            trainer.fit(model, make(UltraInteractPairDataModule, batch_size=1, token_budget=600), ckpt_path=ckpt)
        return model

    whole = fit(Recorder()).seen
    first = [seen for seen in whole if seen[0] == 0]
    assert len(first) > stop_at and {seen[2:] for seen in first} == {seen[2:] for seen in whole[len(first) :]}
    saver = ModelCheckpoint(dirpath=tmp_path / "saved", every_n_train_steps=1, save_last=True)
    assert fit(Recorder(stop_at), saver).seen == whole[:stop_at]
    done = stop_at - stop_at % accumulate
    assert fit(Recorder(), ckpt=saver.last_model_path).seen == whole[done:]


@pytest.mark.real_data
def test_real_rows_with_a_real_tokenizer(make: Make, real_data: Path) -> None:
    tokenizer = str(real_data / "models" / "aidreams260K" / "hf_converted")
    folder = real_data / "preference"
    for file, kind in (("llamafactory/dpo_en_demo.json", "pairs"), ("llamafactory/kto_en_demo.json", "labels")):
        data = make(path=str(folder / file), tokenizer=tokenizer, max_length=1024, limit_train=40, val_fraction=0.1)
        data.setup("fit")
        assert data.objective_kind == kind
        batch = next(iter(data.train_dataloader()))
        texts = data.load_tokenizer().batch_decode([path[0] for path in completions(batch)])
        assert all("User:" in text and "Assistant:" in text for text in texts)
    data = make(
        path=[str(folder / "llamafactory/dpo_en_demo.json"), str(folder / "ultrafeedback-derived/eval_clean.jsonl")],
        tokenizer=tokenizer,
        max_length=1024,
        limit_train=40,
    )
    data.setup("fit")
    assert data.tag_names == ["dpo_en_demo", "eval_clean"]


def test_sources_are_mixed_at_the_stated_shares_of_pairs(rows: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"tokenizer": "playground", "max_length": 512, "cache_dir": str(tmp_path / "cache")}
    paths = [str(rows / name) for name in ("ultrainteract_pair", "ultrafeedback")]
    data = PreferenceDataModule(path=paths, weights={"ultrainteract_pair": 0.75, "ultrafeedback": 0.25}, **options)
    data.setup("fit")
    assert data.tag_names == ["ultrafeedback", "ultrainteract_pair"]
    (train,) = [report for report in data.reports() if report.split == "train"]
    share = train.shares["ultrainteract_pair"] / sum(train.shares.values())
    assert share == pytest.approx(0.75, abs=0.02) and train.mixed == sum(train.shares.values())
    assert "by weights: ultrafeedback" in "\n".join(train.lines())
    seen: Counter[str] = Counter()
    for batch in data.train_dataloader():
        seen.update(data.tag_names[int(batch["tag"][pair[0]])] for pair in batch["pairs"])
        direct = batch["pair_direct"]
        tags = [data.tag_names[int(batch["tag"][pair[0]])] for pair in batch["pairs"]]
        assert direct.tolist() == [tag == "ultrainteract_pair" for tag in tags]
    assert dict(seen) == train.shares
    with pytest.raises(ValueError, match="no row belongs to nowhere"):
        made = PreferenceDataModule(path=paths, weights={"nowhere": 1.0, "ultrafeedback": 1.0}, **options)
        made.setup("fit")
    with pytest.raises(ValueError, match="margin_scale is 0"):
        PreferenceDataModule(path=paths, margin_scale=0, **options)


def test_a_schema_of_the_playground_can_be_named_in_the_path(tmp_path: Path) -> None:
    data = PreferenceDataModule(
        path=["builtin:ultrasafety", "builtin:ultrainteract_pair"],
        tokenizer="playground",
        max_length=512,
        limit_train=30,
        cache_dir=str(tmp_path),
    )
    data.setup("fit")
    assert {schema for report in data.reports() for schema in report.schemas.values()} == {
        "ultrasafety",
        "ultrainteract_pair",
    }


@pytest.mark.real_data
def test_real_scores_give_margins_of_at_most_one(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "preference" / "ultrafeedback-derived"
    data = PreferenceDataModule(
        path=str(folder / "eval_clean.jsonl"),
        tokenizer="playground",
        as_chat=True,
        max_length=2048,
        margin_scale="annotation",
        val_fraction=0.1,
        cache_dir=str(tmp_path),
    )
    data.setup("fit")
    margins = data._splits["train"].tensors["pair_margin"]  # type: ignore[union-attr]
    assert len(margins) > 50 and float(margins.max()) <= 1 and float(margins.min()) >= 0 and len(margins.unique()) > 4
