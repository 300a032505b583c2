"""A cold fit reads each source once, and a second time only where something must be known before the first record is encoded."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fulgurite.data.playground import builtin_rows
from fulgurite.data.sources import columnar, formats, text_formats
from fulgurite.datamodules import (
    CPODataModule,
    FilesDataModule,
    GLUEDataModule,
    PETTasksDataModule,
    PreferenceDataModule,
    SFTDataModule,
    UltraChat2DataModule,
    UltraFeedbackDataModule,
    UltraInteractPairDataModule,
)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file's rows are read to the end, by its name: where lines or rows of a file leave the source layer."""
    found: Counter[str] = Counter()

    def counted(original: Any) -> Any:
        def rows(path: Path) -> Any:
            yield from original(path)
            found[path.name] += 1

        return rows

    for ending in (".jsonl", ".json", ".csv", ".parquet"):
        monkeypatch.setitem(formats._READERS, ending, counted(formats._READERS[ending]))
    monkeypatch.setattr("fulgurite.data.sources.tables.lines_of", counted(text_formats.lines_of))  # lines of a tsv
    monkeypatch.setattr(formats, "read_saved", counted(columnar.read_saved))
    return found


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def fit(kind: Any, tmp_path: Path, **options: Any) -> Any:
    defaults: dict[str, Any] = {"tokenizer": "playground", "max_length": 512, "cache_dir": str(tmp_path / "cache")}
    if kind is UltraChat2DataModule:
        defaults = {"specialists": ["playground-text", "playground-code"], **defaults}
    data = kind(**{**defaults, **options})
    data.prepare_data()
    data.setup("fit")
    return data


CHATS = [{"messages": row["messages"]} for row in builtin_rows("ultrachat_200k", "train", count=40)]
PAIRS = builtin_rows("ultrafeedback_binarized", "train", count=40)


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.json", "chats.parquet"])
@pytest.mark.parametrize("options", [{}, {"limit_train": 10}, {"val_fraction": 0.0}, {"packing": False}])
def test_conversations(tmp_path: Path, read: Counter[str], name: str, options: dict[str, Any]) -> None:
    data = fit(SFTDataModule, tmp_path, path=write(tmp_path / name, CHATS), **options)
    assert read == {name: 1}
    assert len(data._rows("train")) == options.get("limit_train", 38 if options.get("val_fraction") is None else 40)
    # Other selections of the same rows are not read at all.
    fit(SFTDataModule, tmp_path, path=str(tmp_path / name), limit_train=7, val_fraction=0.3, seed=5)
    assert read == {name: 1}


def test_a_warm_fit_reads_nothing(tmp_path: Path, read: Counter[str]) -> None:
    path = write(tmp_path / "pairs.jsonl", PAIRS)
    first = fit(PreferenceDataModule, tmp_path, path=path)
    assert read == {"pairs.jsonl": 1}
    second = fit(PreferenceDataModule, tmp_path, path=path)
    assert read == {"pairs.jsonl": 1}
    for split in ("train", "val"):
        assert first._rows(split).tensors["key"].tolist() == second._rows(split).tensors["key"].tolist()


@pytest.mark.parametrize(
    ("kind", "schema", "options", "readings"),
    [
        (PreferenceDataModule, "ultrafeedback_binarized", {}, 1),
        (PreferenceDataModule, "ultrafeedback_binarized", {"val_fraction": 0.0}, 1),
        (PreferenceDataModule, "ultrafeedback_binarized", {"limit_train": 10}, 2),
        (PreferenceDataModule, "unpaired", {}, 1),
        (UltraFeedbackDataModule, "ultrafeedback", {"objective_kind": "groups"}, 1),
        (UltraInteractPairDataModule, "ultrainteract_pair", {}, 1),
        (UltraInteractPairDataModule, "ultrainteract_pair", {"augment": True}, 2),
        (CPODataModule, "cpo", {"stage": "cpsft"}, 1),
        (CPODataModule, "cpo", {"stage": "cdpo"}, 1),
        (CPODataModule, "cpo", {"stage": "cdpo", "buckets": {"helpfulness=5": 10, "none": 10}}, 2),
    ],
)
def test_preferences(
    tmp_path: Path, read: Counter[str], kind: Any, schema: str, options: dict[str, Any], readings: int
) -> None:
    path = write(tmp_path / "rows.jsonl", builtin_rows(schema, "train", count=60))
    data = fit(kind, tmp_path, path=path, **{"val_fraction": 0.1, **options})
    assert read == {"rows.jsonl": readings}
    rows = data.rows if kind is CPODataModule else data
    assert len(rows._rows("train")) > 0 and (rows._rows("val") is None) == (options.get("val_fraction") == 0.0)


def test_several_files_and_domains(tmp_path: Path, read: Counter[str]) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", CHATS[i::2]) for i, name in enumerate(("one", "two"))]
    fit(SFTDataModule, tmp_path, path=paths, weights={"one": 0.5, "two": 0.5})
    assert read == {"one.jsonl": 1, "two.jsonl": 1}
    for domain in ("text", "code", "maths"):
        rows = builtin_rows(f"ultrachat2/{domain}", "train", count=20)
        write(
            tmp_path / "domains" / f"{domain}.jsonl",
            [{"instruction": row["data"][0], "output": row["data"][1]} for row in rows],
        )
    fit(UltraChat2DataModule, tmp_path, path=str(tmp_path / "domains"))
    assert {name: count for name, count in read.items() if name[0] in "tcm" and name != "two.jsonl"} == {
        "text.jsonl": 1, "code.jsonl": 1, "maths.jsonl": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["reviews.jsonl", "reviews.csv", "reviews.json", "reviews.parquet"])
@pytest.mark.parametrize("options", [{}, {"label_names": ["bad", "good"]}, {"limit_train": 10}])
def test_labelled_files(tmp_path: Path, read: Counter[str], name: str, options: dict[str, Any]) -> None:
    rows = [
        {"text": row["sentence"], "label": ("bad", "good")[row["label"]]}
        for row in builtin_rows("glue/sst2", "train", count=40)
    ]
    fit(FilesDataModule, tmp_path, train_path=write(tmp_path / name, rows), **options)
    assert read == {name: 1}


@pytest.mark.parametrize("splits", ["official", "paper", "train"])
def test_glue(tmp_path: Path, read: Counter[str], splits: str) -> None:
    folder = tmp_path / "SST-2"
    folder.mkdir()
    for name, split, count in (("train", "train", 60), ("dev", "validation", 20)):
        rows = builtin_rows("glue/sst2", split, count=count)
        (folder / f"{name}.tsv").write_text(
            "sentence\tlabel\n" + "".join(f"{row['sentence']}\t{row['label']}\n" for row in rows)
        )
    fit(GLUEDataModule, tmp_path, task="sst2", path=str(folder), splits=splits)
    assert read == {"train.tsv": 1, **({"dev.tsv": 1} if splits == "official" else {})}
    fit(PETTasksDataModule, tmp_path, task="sst2", path=str(folder))


def test_the_parts_of_one_reading_are_those_of_readings_apart(tmp_path: Path) -> None:
    """What trains and what validates is the same whether both come out of one reading or each out of its own."""
    path = write(tmp_path / "labels.jsonl", builtin_rows("unpaired", "train", count=80))
    together = fit(PreferenceDataModule, tmp_path, path=path, val_fraction=0.2)
    for split, stage in (("train", "fit"), ("val", "validate")):
        apart = PreferenceDataModule(
            path=path,
            val_fraction=0.2,
            tokenizer="playground",
            max_length=512,
            cache_dir=str(tmp_path / f"alone {stage}"),
        )
        mine, other = apart._rows(split), together._rows(split)
        assert mine is not None and mine.tensors.keys() == other.tensors.keys()
        for name, tensor in mine.tensors.items():
            assert tensor.tolist() == other.tensors[name].tolist() or tensor.is_floating_point(), (split, name)
