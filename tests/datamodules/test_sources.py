"""Whatever one road reads, all read: rows in every format and folder go into data modules, `generate` and `score` alike."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fulgurite.commands.generate.file as generate_file
from fulgurite.commands.generate.command import generate
from fulgurite.commands.score import command as score_command
from fulgurite.data.sources.tables import read_table, rows_of
from fulgurite.datamodules import (
    FilesDataModule,
    GLUEDataModule,
    PETTasksDataModule,
    PreferenceDataModule,
    SFTDataModule,
)

ROWS = [
    {"prompt": f"question {i}", "completion": f"answer {i}", "rejected": f"no {i}", "label": "yes" if i % 3 else "no"}
    for i in range(20)
]
Make = Callable[[Path], Path]


def jsonl_gz(folder: Path) -> Path:
    path = folder / "chats.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    return path


def comma_separated(folder: Path) -> Path:
    path = folder / "chats.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def parquet(folder: Path, name: str = "chats.parquet") -> Path:
    import pyarrow
    from pyarrow import parquet as pq

    pq.write_table(pyarrow.Table.from_pylist(ROWS), folder / name)
    return folder / name


def hub_snapshot(folder: Path) -> Path:
    """The layout of the hub's cache."""
    top = folder / "datasets--somebody--chats"
    data = top / "snapshots" / "0123abcd" / "data"
    data.mkdir(parents=True)
    (top / "refs").mkdir()
    (top / "refs" / "main").write_text("0123abcd")
    (top / "blobs").mkdir()
    (data.parent / "README.md").write_text("rows")
    parquet(data, "train-00000-of-00001.parquet")
    return top


def datasets_cache(folder: Path) -> Path:
    """The layout of the cache of `datasets`: arrow files that are named after data set and split."""
    from datasets import load_dataset

    rows = parquet(folder, "rows.parquet")
    load_dataset("parquet", data_files={"train": str(rows)}, cache_dir=str(folder / "cache"))
    found = sorted((folder / "cache").glob("**/*-train.arrow"))
    assert len(found) == 1
    return folder / "cache"


def saved(folder: Path) -> Path:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"), num_shards=3)
    return folder / "saved"


def saved_splits(folder: Path) -> Path:
    from datasets import Dataset, DatasetDict

    DatasetDict(train=Dataset.from_list(ROWS)).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def split_folder(folder: Path) -> Path:
    (folder / "rows" / "train").mkdir(parents=True)
    parquet(folder / "rows" / "train", "0000.parquet")
    return folder / "rows"


KINDS: list[Make] = [
    jsonl_gz, comma_separated, parquet, hub_snapshot, datasets_cache, saved, saved_splits, split_folder,
]  # fmt: skip


@pytest.fixture(params=KINDS, ids=[kind.__name__ for kind in KINDS])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made: Path = request.param(tmp_path)
    return made


def test_data_modules(path: Path, tmp_path: Path) -> None:
    options: Any = {"tokenizer": "playground", "cache_dir": str(tmp_path / "tokens"), "val_fraction": 0.2}
    chats = SFTDataModule(path=str(path), **options)
    chats.setup("fit")
    train, val = chats._rows("train"), chats._rows("val")
    assert train is not None and val is not None and len(train) + len(val) == 20 and len(val) > 0
    labelled = FilesDataModule(train_path=str(path), text="prompt", **options)
    labelled.setup("fit")
    train, val = labelled._rows("train"), labelled._rows("val")
    assert train is not None and val is not None and (len(train), len(val)) == (16, 4)
    assert labelled.label_names == ["no", "yes"]
    pairs = PreferenceDataModule(path=str(path), columns={"chosen": "completion"}, **options)
    pairs.setup("fit")
    units = [rows.targets().sum() for split in ("train", "val") if (rows := pairs._rows(split)) is not None]
    assert int(sum(units)) == 20


def test_generate_and_score(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answered(model: Any, tokenizer: Any, prompts: Any, settings: Any) -> list[list[str]]:
        return [[f"to {turns[-1].content}"] for turns in prompts]

    monkeypatch.setattr(generate_file, "generate_text", answered)
    monkeypatch.setattr(generate_file, "_ADDED", ())
    generate(model="playground", file=str(path), output=str(tmp_path / "answers.jsonl"))
    written = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["completion"] for row in written] == [f"to question {i}" for i in range(20)]

    seen: list[Any] = []

    def rewards(asked: Any, *_: Any) -> Any:
        seen.extend(asked)
        return [[float(i)] for i in range(len(asked))], [[1] for _ in asked]

    monkeypatch.setattr(score_command, "load_reward_scorer", lambda *_: SimpleNamespace(omitted={}))
    monkeypatch.setattr(score_command, "_rewards", rewards)
    monkeypatch.setattr(score_command, "stamp", lambda *_: 0)
    monkeypatch.setattr(score_command, "reads_chats", lambda *_: True)
    monkeypatch.setattr(score_command, "summary_table", lambda *_: "")
    score_command.score(model="m.ckpt", file=str(path), output=str(tmp_path / "rewards.jsonl"))
    assert [a.conversations[0].turns[-1].content for a in seen] == [f"answer {i}" for i in range(20)]


def test_places_of_rows(tmp_path: Path) -> None:
    places = [str(place) for place, _ in rows_of(jsonl_gz(tmp_path), owner="score: --file")]
    assert places[:2] == [f"{tmp_path}/chats.jsonl.gz, line 1", f"{tmp_path}/chats.jsonl.gz, line 2"]
    (tmp_path / "list.json.gz").write_bytes(gzip.compress(b'[{"a": 1}]'))
    assert str(read_table(tmp_path / "list.json.gz", owner="x").places[0]) == f"{tmp_path}/list.json.gz, row 1"


def test_several_splits_have_to_be_told_apart(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    folder = tmp_path / "saved"
    parts = {"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:3])}
    DatasetDict(parts).save_to_disk(str(folder))
    with pytest.raises(
        ValueError, match=r"score: --file: .*saved holds rows of several splits \(train, test\); give one of"
    ):
        read_table(folder, owner="score: --file")
    assert len(read_table(folder / "test", owner="score: --file").rows) == 3
    assert len(read_table(folder, owner="score: --file", split="test").rows) == 3
    with pytest.raises(ValueError, match=r"holds no val rows"):
        read_table(folder, owner="score: --file", split="val")
    with pytest.raises(FileNotFoundError, match=r"score: --file: .*savd: no such file; did you mean '.*saved'\?"):
        read_table(tmp_path / "savd", owner="score: --file")
    data = FilesDataModule(train_path=str(folder), text="prompt", tokenizer="playground", cache_dir=str(tmp_path / "c"))
    data.setup("test")
    assert len(data._rows("test") or ()) == 3


def test_damaged_arrow_files(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    files = sorted(folder.glob("*.arrow"))
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-8])  # without the mark at the end it would read as a shorter file
    with pytest.raises(ValueError, match=r"not a whole arrow file .*cut off"):
        read_table(folder)
    files[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"not a whole arrow file"):
        read_table(folder)
    files[1].unlink()
    with pytest.raises(ValueError, match=rf"saved: {files[1].name} is missing, which state\.json names"):
        read_table(folder)


def test_columns_of_one_name_in_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as pq

    pq.write_table(pyarrow.table([[1], [2]], names=["a", "a"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"the header names 'a' more than once; rename the columns"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("squeezed", [False, True])
def test_labelled_tasks(tmp_path: Path, squeezed: bool) -> None:
    """GLUE and the tasks of parameter-efficient tuning, as compressed tables and as saved data sets."""
    from datasets import Dataset, DatasetDict

    rows = [{"sentence": f"film {i}", "label": i % 2} for i in range(12)]
    folder = tmp_path / "sst2"
    if squeezed:
        folder.mkdir()
        for split, part in (("train", rows), ("dev", rows[:4])):
            text = "sentence\tlabel\n" + "".join(f"{row['sentence']}\t{row['label']}\n" for row in part)
            (folder / f"{split}.tsv.gz").write_bytes(gzip.compress(text.encode()))
    else:
        parts = {"train": Dataset.from_list(rows), "validation": Dataset.from_list(rows[:4])}
        DatasetDict(parts).save_to_disk(str(folder))
    for kind in (GLUEDataModule, PETTasksDataModule):
        data = kind(task="sst2", path=str(folder), tokenizer="playground", cache_dir=str(tmp_path / "tokens"))
        data.setup("fit")
        train = data._rows("train")
        assert train is not None and len(train) >= 8
    single = GLUEDataModule(
        task="sst2",
        path=str(next(folder.glob("train*"))),
        splits="train",
        tokenizer="playground",
        cache_dir=str(tmp_path),
    )
    single.setup("fit")
    assert len(single._rows("train") or ()) + len(single._rows("val") or ()) == 12


def test_another_tasks_folder_is_not_taken(tmp_path: Path) -> None:
    """The only folder in a folder is entered for conversations, but a folder of SST-2 is not read as CoLA."""
    (tmp_path / "glue" / "SST-2").mkdir(parents=True)
    (tmp_path / "glue" / "SST-2" / "train.tsv").write_text("sentence\tlabel\na\t1\n")
    data = GLUEDataModule(task="cola", path=str(tmp_path / "glue"), tokenizer="playground", cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="has no train file for cola"):
        data.setup("fit")
