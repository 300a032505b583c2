"""ConversationDataModule: paths, division, masks, packs, mixing, cache, counts, report."""

import gzip
import json
import logging
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fulgurite.data.playground import builtin_rows
from fulgurite.datamodules import (
    SFTDataModule,
    UltraChatDataModule,
    UltraCritiqueDataModule,
    UltraInteractDataModule,
    UltraLinkDataModule,
)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def build(kind: Any = SFTDataModule, **options: Any) -> Any:
        defaults = {"path": "builtin", "tokenizer": "playground", "max_length": 256, "batch_size": 2}
        return kind(**{**defaults, "cache_dir": str(tmp_path / "cache"), **options})

    return build


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def chats(count: int, words: str = "row") -> list[dict[str, Any]]:
    return [{"instruction": f"{words} {i}?", "output": f"answer {i} " + "a" * (i % 40)} for i in range(count)]


def decoded(data: Any, loader: Any) -> list[tuple[str, str]]:
    """Each segment's text, and what of it is trained on."""
    tokenizer, found = data.load_tokenizer(), []
    for batch in loader:
        if "cu_seq_lens" in batch:
            bounds = batch["cu_seq_lens"].tolist()
            spans = [(0, a, b) for a, b in pairwise(bounds)]
        else:
            spans = [(i, 0, int(mask.sum())) for i, mask in enumerate(batch["attention_mask"])]
        for i, a, b in spans:
            ids, labels = batch["input_ids"][i, a:b], batch["labels"][i, a:b]
            assert torch.equal(ids[labels != -100], labels[labels != -100])
            found.append((tokenizer.decode(ids), tokenizer.decode(ids[labels != -100])))
    return found


@pytest.mark.parametrize(
    ("kind", "tags"),
    [
        (SFTDataModule, []),
        (UltraChatDataModule, []),
        (UltraInteractDataModule, ["Coding", "Logic", "Math_CoT", "Math_PoT"]),
        (UltraLinkDataModule, ["en", "es", "fr", "ru", "zh"]),
    ],
)
def test_builtin_rows_of_every_module(make: Any, kind: Any, tags: list[str]) -> None:
    data = make(kind, limit_train=60)
    data.setup("fit")
    data.setup("test")
    assert (len(data._rows("train")), len(data._rows("val")), len(data._rows("test"))) == (60, 200, 200)
    assert data.tag_names == tags and data.metric_names == ("perplexity", "token_accuracy")
    batch = next(iter(data.train_dataloader()))
    assert batch["input_ids"].shape == batch["labels"].shape == batch["position_ids"].shape
    assert ("tag" in batch) == bool(tags)
    for text, answer in decoded(data, data.val_dataloader()):
        assert text.startswith("<bos><|user|>\n") and answer.endswith("<|end|>") and "<|user|>" not in answer


@pytest.mark.slow
def test_critiques(make: Any) -> None:
    data = make(UltraCritiqueDataModule, max_length=400, limit_train=20, packing=False)
    data.setup("fit")
    text, answer = decoded(data, data.train_dataloader())[0]
    assert "### Instruction" in text and "### Answer" in text
    assert answer.startswith("### Feedback\nThe answer is ") and "\nOverall Score: " in answer
    with pytest.raises(ValueError, match=r"lacks \{instruction\} and \{answer\}"):
        make(UltraCritiqueDataModule, prompt="judge")


@pytest.mark.parametrize("packing", [True, False])
def test_every_row_is_seen_once_and_tokens_are_counted(tmp_path: Path, make: Any, packing: bool) -> None:
    path = lines(tmp_path / "rows.jsonl", chats(50))
    data = make(path=path, packing=packing, val_fraction=0, max_length=128)
    data.setup("fit")
    loader = data.train_dataloader()
    found = decoded(data, loader)
    assert len(found) == 50 and data.val_dataloader() == []
    expected = {
        f"<bos><|user|>\nrow {i}?<|end|>\n<|assistant|>\nanswer {i} " + "a" * (i % 40) + "<|end|>" for i in range(50)
    }
    assert {text.rstrip("\n") for text, _ in found} == expected
    for batch in loader:
        shifted = batch["labels"][:, 1:] if not packing else batch["labels"]
        assert batch["tokens_in_window"] == (shifted != -100).sum()
    assert int(data._rows("train").targets().sum()) == sum(int((b["labels"] != -100).sum()) for b in loader)
    if packing:
        assert max(int(batch["input_ids"].shape[1]) for batch in loader) <= 2 * 128 and len(loader) < 25


def test_evaluation_packs_in_the_order_of_the_rows(tmp_path: Path, make: Any) -> None:
    path = lines(tmp_path / "rows.jsonl", chats(60))
    data = make(path=path, val_path=path, max_length=100, eval_batch_size=1)
    data.setup("fit")
    packs = [
        [int(text.split("row ")[1].split("?")[0]) for text, _ in decoded(data, [batch])]
        for batch in data.val_dataloader()
    ]
    assert sorted(row for pack in packs for row in pack) == list(range(60)) and max(map(len, packs)) > 1
    assert all(pack == sorted(pack) for pack in packs) and [p[0] for p in packs] == sorted(p[0] for p in packs)
    plain = next(iter(data.predict_dataloader()))
    assert plain["attention_mask"].shape == plain["input_ids"].shape and "cu_seq_lens" not in plain


def test_questions_of_validation_are_not_trained_on(tmp_path: Path, make: Any) -> None:
    rows = chats(200) + [{"instruction": "row 7?", "output": "another answer"}] * 20
    path = lines(tmp_path / "rows.jsonl.gz", rows)
    data = make(path=path, val_fraction=0.2, packing=False)
    data.setup("fit")
    train, val = (
        {text.split("?")[0] for text, _ in decoded(data, loader)}
        for loader in (data.train_dataloader(), data.val_dataloader())
    )
    assert not train & val and len(train | val) == 200
    assert len(data._rows("train")) + len(data._rows("val")) == 220 and 20 <= len(data._rows("val")) <= 44
    few = make(path=path, val_fraction=0.2, packing=False, limit_train=10)
    few.setup("fit")
    assert len(few._rows("train")) == 10
    assert {text.split("?")[0] for text, _ in decoded(few, few.val_dataloader())} == val
    assert {text.split("?")[0] for text, _ in decoded(few, few.train_dataloader())} <= train


def test_folders_and_files_of_their_own(tmp_path: Path, make: Any) -> None:
    for name, count in (("train", 30), ("validation", 4), ("test", 5)):
        lines(tmp_path / "data" / f"{name}.jsonl", chats(count, name))
    data = make(path=str(tmp_path / "data"))
    data.setup("fit")
    data.setup("test")
    assert [len(data._rows(split)) for split in ("train", "val", "test")] == [30, 4, 5]
    lines(tmp_path / "data" / "more.jsonl", chats(3, "more"))
    more = make(path=str(tmp_path / "data"))
    more.setup("fit")
    assert len(more._rows("train")) == 33 and "  files   more.jsonl, train.jsonl\n" in more.describe()
    other = make(path=str(tmp_path / "data" / "train.jsonl"), test_path=str(tmp_path / "data" / "test.jsonl"))
    other.setup("fit")
    other.setup("test")
    assert len(other._rows("train")) + len(other._rows("val")) == 30 and len(other._rows("test")) == 5
    bare = make(path=str(tmp_path / "data" / "train.jsonl"))
    bare.setup("test")
    with pytest.raises(ValueError, match="there is no test split, which test needs"):
        bare.test_dataloader()


def test_languages_and_weights(tmp_path: Path, make: Any) -> None:
    rows = builtin_rows("ultralink", "train", count=500)
    for language in ("en", "fr", "zh"):
        lines(
            tmp_path / "link" / f"{language}_math.jsonl", [row for row in rows if row["id"].startswith(language)][:60]
        )
    folder = str(tmp_path / "link")
    weights = {"en": 0.5, "fr": 0.25, "zh": 0.25}
    data = make(UltraLinkDataModule, path=folder, val_fraction=0, weights=weights, packing=False)
    data.setup("fit")
    seen = torch.cat([batch["tag"] for batch in data.train_dataloader()])
    assert data.tag_names == ["en", "fr", "zh"] and torch.bincount(seen).tolist() == [60, 30, 30]
    assert "en 60 (50.0%), fr 30 (25.0%), zh 30 (25.0%)" in data.describe()
    packed = make(UltraLinkDataModule, path=folder, val_fraction=0, weights=weights, mixing="repeat")
    packed.setup("fit")
    seen = torch.cat([batch["tag"] for batch in packed.train_dataloader()])
    assert torch.bincount(seen).tolist() == [90, 45, 45]
    two = make(UltraLinkDataModule, path=folder, languages=["zh", "fr"])
    two.setup("fit")
    assert two.tag_names == ["fr", "zh"] and two.reports()[0].tally.rows == 120
    with pytest.raises(ValueError, match="no file is of languages de; found are en, fr, zh"):
        make(UltraLinkDataModule, path=folder, languages=["de"]).setup("fit")
    with pytest.raises(ValueError, match=r"weights are given for en, but fr, zh has none"):
        make(UltraLinkDataModule, path=folder, weights={"en": 1.0}).setup("fit")


@pytest.mark.parametrize("packing", [True, False])
def test_a_tag_names_the_language_of_its_row(make: Any, packing: bool) -> None:
    data = make(UltraLinkDataModule, limit_train=80, packing=packing)
    data.setup("validate")
    data.setup("fit")
    for loader in (data.val_dataloader(), data.train_dataloader()):
        names = [data.tag_names[tag] for batch in loader for tag in batch["tag"].tolist()]
        texts = [text for text, _ in decoded(data, loader)]
        assert len(set(names)) == 5
        for name, text in zip(names, texts, strict=True):
            script = "zh" if re.search("[\u4e00-\u9fff]", text) else "ru" if re.search("[а-я]", text) else "other"
            assert script == (name if name in ("zh", "ru") else "other")


def test_several_files_are_tags(tmp_path: Path, make: Any) -> None:
    paths = [
        lines(tmp_path / "alpaca.jsonl", chats(30)),
        lines(tmp_path / "share.jsonl", builtin_rows("sharegpt", "train", count=20)),
    ]
    data = make(path=paths, weights={"alpaca": 0.5, "share": 0.5}, val_fraction=0)
    data.setup("fit")
    assert data.tag_names == ["alpaca", "share"] and data.reports()[0].shares == {"alpaca": 20, "share": 20}
    assert data.describe().startswith("train, read as alpaca, sharegpt:")
    for part in ("train-0.jsonl", "train-1.jsonl"):  # the parts of a folder are one source
        lines(tmp_path / "parts" / part, chats(10, part))
    data = make(
        path=[*paths, str(tmp_path / "parts"), lines(tmp_path / "other" / "share.jsonl", chats(5, "b"))], val_fraction=0
    )
    data.setup("fit")
    assert data.tag_names == sorted(
        ["alpaca", "parts", str(tmp_path / "other" / "share.jsonl"), str(tmp_path / "share.jsonl")]
    )
    assert sorted(data.reports()[0].shares.values()) == [5, 20, 20, 30]


def test_the_cache_is_read_and_its_key_holds_all_that_matters(tmp_path: Path, make: Any, monkeypatch: Any) -> None:
    path = lines(tmp_path / "rows.jsonl", chats(20))
    cache = tmp_path / "cache" / "conversations"
    options: list[dict[str, Any]] = [
        {},
        {"max_length": 200},
        {"supervise": "all"},
        {"too_long": "cut"},
        {"template": "zephyr"},
        {"on_bad_row": "error"},
        {"schema": "alpaca"},
    ]
    files: set[str] = set()
    for more in options:
        make(path=path, **more).prepare_data()
        new = {file.name for file in cache.iterdir()} - files
        assert new, more
        files |= new
    make(path=path, batch_size=7, packing=False).prepare_data()  # what does not change the tokens
    for selection in ({"val_fraction": 0.3}, {"limit_train": 5}, {"limit_train": 5, "seed": 1}):
        make(path=path, **selection).prepare_data()
    assert {file.name for file in cache.iterdir()} == files
    monkeypatch.setattr("fulgurite.data.encoding.conversations.ConversationEncoder.encode", None)
    again = make(path=path)
    again.setup("fit")  # another process or run: nothing is encoded again, and the counts are still there
    assert again.reports()[0].tally.rows == 20
    monkeypatch.undo()
    lines(tmp_path / "rows.jsonl", chats(21))
    make(path=path).prepare_data()
    assert len(list(cache.iterdir())) > len(files)


def test_bad_and_long_rows_are_counted_and_told(tmp_path: Path, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*chats(30), {"instruction": "a", "output": ""}, {"instruction": "long", "output": "word " * 500}]
    path = lines(tmp_path / "rows.jsonl", rows)
    data = make(path=path, val_fraction=0)
    data.trainer = SimpleNamespace(
        is_global_zero=True, world_size=2, accumulate_grad_batches=2, default_root_dir=str(tmp_path / "run"),
        progress_bar_callback=None, callbacks=[], global_rank=0, overfit_batches=0, fast_dev_run=False,
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        data.setup("fit")
        data.setup("fit")
    text = caplog.text
    assert text.count("rows    30; 32 were read, 2 left out") == 1 and "train, read as alpaca:" in text
    assert "1 left out, empty answer: " in text and "rows.jsonl, line 31: turn 2 (assistant) has no text" in text
    assert "1 left out, longer than max_length: " in text and "rows.jsonl, line 32" in text
    (report,) = data.reports()
    assert (
        report.packs is not None and report.batches == -(-report.packs // 4) and report.steps == -(-report.batches // 2)
    )
    assert (tmp_path / "run" / "length_histogram.png").is_file()
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 31: empty answer"):
        make(path=path, on_bad_row="error").setup("fit")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 32"):
        make(path=path, too_long="error", val_fraction=0).setup("fit")
    with pytest.raises(ValueError, match=r"no conversation of .* is left for train; raise max_length"):
        make(path=path, max_length=8, val_fraction=0).setup("fit")
    assert not list((tmp_path / "cache" / "conversations").glob(".*"))


def test_encoder_decoders_get_pairs(tmp_path: Path, make: Any) -> None:
    path = lines(tmp_path / "rows.jsonl", [{"id": "1", "data": ["one?", "first", "two?", "second answer"]}] * 2)
    data = make(path=path, task_type="seq2seq", val_fraction=0, batch_size=2)
    data.setup("fit")
    batches = list(data.train_dataloader())
    rows = [row for batch in batches for row in batch["labels"]]
    tokenizer = data.load_tokenizer()
    answers = [tokenizer.decode(row[row != -100], skip_special_tokens=True) for row in rows]
    assert sorted(answers) == ["first", "first", "second answer", "second answer"]
    assert "of answers, all supervised" in data.describe()
    assert data.packing is False and sum(int((b["labels"] != -100).sum()) for b in batches) == sum(
        int(b["tokens_in_window"]) for b in batches
    )
    with pytest.raises(ValueError, match="supervise is 'all' with task_type 'seq2seq'"):
        make(path=path, task_type="seq2seq", supervise="all")


def test_hub_data_sets(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(name: str, split: str, revision: str | None) -> Any:
        asked.append((name, split, revision))
        return datasets.Dataset.from_list(builtin_rows("ultrachat_200k", "train", count=12))

    monkeypatch.setattr(
        datasets, "get_dataset_split_names", lambda name, revision: ["train_sft", "train_gen", "test_sft"]
    )
    monkeypatch.setattr(datasets, "load_dataset", load)
    data = make(UltraChatDataModule, path=None)
    data.setup("fit")
    data.setup("test")
    assert {(name, split) for name, split, _ in asked} == {
        ("HuggingFaceH4/ultrachat_200k", "train_sft"), ("HuggingFaceH4/ultrachat_200k", "test_sft"),
    }  # fmt: skip
    assert len(data._rows("train")) + len(data._rows("val")) == 12 == len(data._rows("test"))
    assert make(UltraCritiqueDataModule, path=None).revision == "40b436560ca83a8dba36114c22ab3c66e43f6d5e"
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, revision: ["all"])
    with pytest.raises(ValueError, match=r"train rows of 'a/b' .* cannot be loaded .* one called train is needed"):
        make(path="a/b").setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": None}, "no path was given; give a hub id"),
        ({"path": []}, "no path was given"),
        ({"supervise": "none"}, "supervise is 'none'; allowed are 'assistant', 'last', 'all'"),
        ({"too_long": "keep"}, "too_long is 'keep'"),
        ({"mixing": "both"}, "mixing is 'both'"),
        ({"val_fraction": 1.0}, r"val_fraction is 1\.0"),
        ({"schema": "alpacca"}, r"did you mean 'alpaca'\?"),
        ({"max_length": 0}, "max_length is 0"),
    ],
)
def test_bad_options(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_no_batch_in_a_step_is_refused(make: Any, tmp_path: Path) -> None:
    data = make(path=lines(tmp_path / "a.jsonl", chats(20)))
    data.trainer = SimpleNamespace(
        accumulate_grad_batches=0, world_size=1, is_global_zero=True, progress_bar_callback=None, overfit_batches=0
    )
    with pytest.raises(ValueError, match="accumulate_grad_batches is 0; it must be at least 1"):
        data.setup("fit")


def test_missing_files(make: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path '\./none\.jsonl' is no file and no folder"):
        make(path="./none.jsonl").setup("fit")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no file for train rows; allowed are json.*; found nothing"):
        make(path=str(tmp_path / "empty")).setup("fit")


@pytest.mark.real_data
def test_real_rows_with_a_real_tokenizer(make: Any, real_data: Path) -> None:
    paths = [str(real_data / p) for p in ("sft/alpaca/alpaca_en_demo.json", "sft/litgpt/dolly.json")]
    data = make(path=paths, tokenizer=str(real_data / "models/aidreams260K/hf_converted"), max_length=512, batch_size=1)
    data.setup("fit")
    (train, _) = data.reports()
    assert train.tally.rows == 1011 and train.tally.kept > 100 and train.fill > 0.9
    assert data.tag_names == ["alpaca_en_demo", "dolly"]
    batch = next(iter(data.train_dataloader()))
    assert 0 < int(batch["tokens_in_window"]) < batch["input_ids"].numel() <= 512
