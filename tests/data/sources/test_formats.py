"""Rows of files one by one: the same as read whole, in little memory, with errors that name file, line and byte."""

import csv
import gzip
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from fulgurite.data.sources import json_list as streaming_json
from fulgurite.data.sources import text_formats
from fulgurite.data.sources.folders import split_files
from fulgurite.data.sources.formats import stream_rows
from fulgurite.data.sources.locate import file_source, list_source
from fulgurite.data.sources.tables import read_table

ROWS: list[dict[str, Any]] = [
    {"text": 'a "quoted" word, and } ] {', "n": 1},
    {"text": "two\u2028lines \\ é 漢 🙂", "n": 2},
    {"text": "x" * 50, "n": 3},
]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet(path: Path, rows: list[dict[str, Any]], group: int = 100) -> Path:
    import pyarrow
    from pyarrow import parquet as pq

    pq.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)
    return path


def test_every_format_gives_its_rows_and_numbers(tmp_path: Path) -> None:
    text = json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1], ensure_ascii=False) + "\r\n" + json.dumps(ROWS[2])
    lines = write(tmp_path / "a.jsonl", "\ufeff" + text)
    assert list(stream_rows(lines)) == list(zip(ROWS, [1, 3, 4], strict=True))
    squeezed = write(tmp_path / "a.jsonl.gz", gzip.compress(text.encode()))
    assert list(stream_rows(squeezed)) == list(stream_rows(lines))
    listed = write(tmp_path / "a.json", "\ufeff" + json.dumps(ROWS, ensure_ascii=False, indent=1))
    assert list(stream_rows(listed)) == list(zip(ROWS, [1, 2, 3], strict=True))
    around = write(tmp_path / "b.json", json.dumps({"version": 1, "data": ROWS}))
    assert [row for row, _ in stream_rows(around)] == ROWS
    assert list(stream_rows(parquet(tmp_path / "a.parquet", ROWS, 2))) == list(zip(ROWS, [1, 2, 3], strict=True))
    commas = write(tmp_path / "a.csv", 'text,n\n"a ""b""\nc",1\n"d, e",0\n')
    assert list(stream_rows(commas)) == [({"text": 'a "b"\nc', "n": "1"}, 2), ({"text": "d, e", "n": "0"}, 4)]
    tabs = write(tmp_path / "a.tsv", 'text\tn\n"open\t1\n')
    assert list(stream_rows(tabs)) == [({"text": '"open', "n": "1"}, 2)]


def test_a_long_field_of_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f'text\n"{"y" * 200_000}"\n')
    assert len(next(stream_rows(path))[0]["text"]) == 200_000


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_windows_of_every_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, indent: int | None
) -> None:
    # A window's end falls into every escape, number, bracket and multi-byte character.
    monkeypatch.setattr(streaming_json, "_BLOCK", block)
    monkeypatch.setattr(streaming_json._Characters.more, "__defaults__", (block,))
    path = write(tmp_path / "a.json", json.dumps(ROWS, ensure_ascii=False, indent=indent) + " \n")
    assert [row for row, _ in stream_rows(path)] == ROWS
    escaped = write(tmp_path / "b.json", json.dumps(ROWS, indent=indent))
    assert [row for row, _ in stream_rows(escaped)] == ROWS


def test_the_same_rows_as_read_whole(tmp_path: Path) -> None:
    rows = [{"text": f"row {i} é", "n": i} for i in range(700)]
    path = write(tmp_path / "a.json", json.dumps(rows))
    assert [row for row, _ in stream_rows(path)] == read_table(path).rows


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz"])
def test_memory_stays_far_below_the_file(tmp_path: Path, name: str) -> None:
    rows = [{"n": i, "text": f"{i} " + chr(97 + i % 26) * 20_000} for i in range(1000)]
    path = tmp_path / name
    if name.endswith(".parquet"):
        parquet(path, rows, 100)
    elif name.endswith(".csv"):
        write(path, "n,text\n" + "".join(f"{row['n']},{row['text']}\n" for row in rows))
    else:
        text = json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows))
        write(path, gzip.compress(text.encode(), 1) if name.endswith(".gz") else text)
    del rows
    tracemalloc.start()
    count = sum(1 for _ in stream_rows(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 1000
    # Twenty megabytes of text; a parquet batch holds 256 of its rows.
    assert peak < (8e6 if name.endswith(".parquet") else 6e6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": "cut', r"a\.jsonl, line 2: not valid JSON .*: it looks cut off"),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"a\.jsonl, line 2: list was found; each row must be an object"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl, line 2: byte 16 \(0xff\) is not UTF-8"),
        ("a.json", b'[{"a": 1},\n{"a": "\xff"}]', r"a\.json, line 2: byte 18 \(0xff\) is not UTF-8"),
        ("a.json", b'\xef\xbb\xbf[{"a": 1},\n{"a": "\xff"}]', r"a\.json, line 2: byte 21 \(0xff\) is not UTF-8"),
        ("a.json", b'[{"a": "\xe6\xbc', r"a\.json, line 1: byte 8 \(0xe6\) is not UTF-8"),
        ("a.json", '[{"a": 1},\n{"a": 2', r"a\.json, line 2: not valid JSON .*cut off"),
        ("a.json", '[{"a": 1}', r"a\.json, line 1: not valid JSON .*cut off"),
        ("a.json", '[{"a": 1},\n{"a" 2}]', r"a\.json, line 2: not valid JSON \(Expecting ':' delimiter\)$"),
        ("a.json", '[{"a": 1} {"a": 2}]', r"line 1: not valid JSON \(a comma or the list's end"),
        (
            "a.json",
            '[{"a": 1}]\n{"a": 2}',
            r"line 2: .*something follows the list; one object per line belongs in .*jsonl",
        ),
        ("a.json", '{"a": 1}\n{"a": 2}', r"line 2: .*one object per line belongs in .*jsonl"),
        ("a.json", '[{"a": 1}, 7]', r"a\.json, row 2: int was found"),
        ("a.json", '{"a": [], "b": []}', r"an object with 2 lists \('a', 'b'\) was found"),
        ("a.json", '[{"a": 1},\n{"a": ' + "[" * 100_000, r"a\.json, line 2: not valid JSON \(nested too deeply\)"),
        ("a.json", f'[{{"a": {"9" * 5000}}}]', r"a\.json, line 1: not valid JSON \(Exceeds the limit"),
        ("a.jsonl", '{"a": 1}\n{"a": ' + "[" * 100_000, r"a\.jsonl, line 2: JSON that cannot be read \(nested"),
        ("a.jsonl", f'{{"a": {"9" * 5000}}}', r"a\.jsonl, line 1: JSON that cannot be read \(Exceeds the limit"),
        ("a.json", "", r"a\.json.*cut off"),
        ("a.json", "[]", r"a\.json: the file has no row"),
        ("a.jsonl", "\n\n", r"a\.jsonl: the file has no row"),
        ("a.csv", "a,b\n1\n", r"a\.csv, line 2: 1 fields were found; the header has 2"),
        ("a.csv", 'a,b\n"1,2\n', r"a\.csv, line 2: unexpected end of data; close the quotes"),
        ("a.tsv", "a\ta\n1\t2\n", r"a\.tsv: the header names 'a' more than once"),
        ("a.parquet", b"PAR1 nothing else", r"a\.parquet: not a whole parquet file"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-9], r"a\.jsonl\.gz: not a whole gzip file"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz: not a whole gzip file"),
        ("a.json.gz", gzip.compress(b'[{"a": 1}]', mtime=0)[:-9], r"a\.json\.gz: not a whole gzip file"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        list(stream_rows(path))


def test_missing_files_and_unknown_endings(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", "{}")
    with pytest.raises(FileNotFoundError, match=r"no such file; did you mean '.*train\.jsonl'"):
        list(stream_rows(tmp_path / "tran.jsonl"))
    with pytest.raises(ValueError, match=r"ending '\.xlsx' is not known; allowed are \.jsonl"):
        file_source(tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    ("names", "train", "val", "test"),
    [
        (["0000_sft.parquet", "0000_pair.parquet"], ["0000_sft.parquet"], [], []),
        (["en_math.jsonl", "fr_chat_agnostic.jsonl", "README.md"], ["en_math.jsonl", "fr_chat_agnostic.jsonl"], [], []),
        (
            [
                "train_sft-00000-of-00002.parquet",
                "train_sft-00001-of-00002.parquet",
                "test_sft-0.parquet",
                "test_gen-0.parquet",
            ],
            ["train_sft-00000-of-00002.parquet", "train_sft-00001-of-00002.parquet"],
            [],
            ["test_sft-0.parquet"],
        ),
        (["train.csv", "dev.csv", "other.csv"], ["other.csv", "train.csv"], ["dev.csv"], []),
        (
            ["chats.train.jsonl", "chats.val.jsonl", "chats.TEST.jsonl.gz", "v1.2.jsonl", "._chats.train.jsonl"],
            ["chats.train.jsonl", "v1.2.jsonl"],
            ["chats.val.jsonl"],
            ["chats.TEST.jsonl.gz"],
        ),
        (["rows.json", "valid.json", "dataset_info.json"], ["rows.json"], ["valid.json"], []),
    ],
)
def test_files_of_a_split(tmp_path: Path, names: list[str], train: list[str], val: list[str], test: list[str]) -> None:
    for folder in (tmp_path, tmp_path / "deep" / "data"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            write(folder / name, "{}")
    for folder in (tmp_path, tmp_path / "deep"):
        found = [[path.name for path in split_files(folder, split)] for split in ("train", "val", "test")]
        assert found == [train, val, test]


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    first = file_source(write(tmp_path / "a.jsonl", '{"a": 1}')).fingerprint()
    assert file_source(write(tmp_path / "b.jsonl", '{"a": 1}')).fingerprint() == first
    assert file_source(write(tmp_path / "a.jsonl", '{"a": 2}')).fingerprint() != first
    assert list_source("x", [{"a": 1}]).fingerprint() != list_source("x", [{"a": 2}]).fingerprint()


ENDLESS = {
    "a.jsonl.gz": b'{"text": "' + b"x" * (1 << 24),
    "a.csv.gz": b'text\n"' + b"x" * (1 << 24),
    "a.tsv.gz": b"text\n" + b"x" * (1 << 24),
    "a.json.gz": b'[{"text": "' + b"x" * (1 << 24),
    "a.csv": b'text\n"' + b"one line of an open quote\n" * (1 << 19),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_line_without_end_is_refused_in_little_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few megabytes of gzip hold a line of gigabytes."""
    longest = 1 << 20
    for module in (streaming_json, text_formats):
        monkeypatch.setattr(module, "LONGEST", longest)
    before = csv.field_size_limit(longest)
    path = tmp_path / name
    write(path, gzip.compress(ENDLESS[name]) if name.endswith(".gz") else ENDLESS[name])
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=rf"{name}, line \d: (a row of more than 1 MiB|field larger than field limit)"
        ):
            list(stream_rows(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        csv.field_size_limit(before)
    assert peak < 10 * longest


def test_an_object_around_the_rows_may_not_be_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.json", json.dumps({"data": [{"text": "x" * 1000}] * 100}))
    assert len(list(stream_rows(path))) == 100
    monkeypatch.setattr(streaming_json, "LONGEST", 50_000)
    with pytest.raises(ValueError, match=r"a\.json: an object of more than 0 MiB around the rows.*\.jsonl"):
        list(stream_rows(path))


def test_space_without_end_is_passed_quickly(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json.gz", gzip.compress(b" \n" * (1 << 24) + b'[{"a": 1}]'))
    began = time.monotonic()
    assert [row for row, _ in stream_rows(path)] == [{"a": 1}]
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.jsonl",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a pointer of Git LFS.*git lfs pull",
        ),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (
            "a.jsonl",
            gzip.compress(b'{"text": "a"}\n', mtime=0),
            r"compressed by gzip; give it a name that ends in \.jsonl\.gz",
        ),
        ("a.csv", b"PK\x03\x04abc", "a zip archive; unpack it"),
    ],
)
def test_a_file_that_is_something_else_says_what_it_is(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{name}: {words}"):
        list(stream_rows(write(tmp_path / name, content)))


def test_a_link_that_leads_nowhere_is_not_guessed_at(tmp_path: Path) -> None:
    for target in ("loop.jsonl", "gone.jsonl"):
        (tmp_path / "loop.jsonl").unlink(missing_ok=True)
        (tmp_path / "loop.jsonl").symlink_to(tmp_path / target)
        with pytest.raises(FileNotFoundError, match=r"loop\.jsonl: a link to a place where nothing is"):
            list(stream_rows(tmp_path / "loop.jsonl"))
