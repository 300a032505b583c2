"""Every reader on whole files, and every error on a broken one."""

import csv
import json
from pathlib import Path

import pytest

from fulgurite.data.sources.tables import read_lines, read_table

ROWS = [{"text": 'a "quoted" word', "label": 1}, {"text": "two\u2028lines", "label": 0}]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_json_list_and_json_object_with_one_list(tmp_path: Path) -> None:
    plain = read_table(write(tmp_path / "a.json", json.dumps(ROWS)))
    nested = read_table(write(tmp_path / "b.json", json.dumps({"version": 1, "data": ROWS})))
    assert plain.rows == nested.rows == ROWS
    assert plain.columns == ["text", "label"]


def test_jsonl_skips_empty_lines_but_counts_them(tmp_path: Path) -> None:
    text = json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1], ensure_ascii=False) + "\r\n"
    table = read_table(write(tmp_path / "a.jsonl", text))
    assert table.rows == ROWS
    assert table.lines == [1, 3]


def test_csv_quotes_and_line_numbers_over_fields_with_line_breaks(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.csv", '\ufefftext,label\n"a ""b""\nc",1\n"d, e",0\n'))
    assert [row["text"] for row in table.rows] == ['a "b"\nc', "d, e"]
    assert table.lines == [2, 4]


def test_a_field_of_csv_may_be_long(tmp_path: Path) -> None:
    limit = csv.field_size_limit(131072)
    try:
        table = read_table(write(tmp_path / "a.csv", f'text,label\n"{"x" * 200_000}",1\n'))
    finally:
        csv.field_size_limit(limit)
    assert len(table.rows[0]["text"]) == 200_000


def test_tsv_quotes_are_literal(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.tsv", 'text\tlabel\n"open\t1\nclosed"\t0\n'))
    assert [row["text"] for row in table.rows] == ['"open', 'closed"']


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    assert read_lines(write(tmp_path / "a.tsv", "a\x85b\u2028c\r\nd\n")) == ["a\x85b\u2028c", "d"]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").rows == ROWS
    whole = (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(ValueError, match=r"b\.parquet: not a whole parquet file"):
        read_table(write(tmp_path / "b.parquet", whole[: len(whole) // 2]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv: the file has no row; at least one is needed"),
        ("a.jsonl", " \n \n", r"a\.jsonl: the file has no row; at least one is needed"),
        ("a.csv", "text,label\n", r"a\.csv: the file has no row; at least one is needed"),
        ("a.json", "[]", r"a\.json: the file has no row; at least one is needed"),
        ("a.csv", b"text,label\nok,1\nb\xe9d,0\n", r"a\.csv, line 3: byte 17 \(0xe9\) is not UTF-8"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b\n', r"a\.jsonl, line 2: not valid JSON .*it looks cut off"),
        ("a.json", '[{"text": "a"},\n{"text": ', r"a\.json, line 2: not valid JSON .*looks cut off"),
        (
            "a.json",
            '{"text": "a"}\n{"text": "b"}\n',
            r"a\.json, line 2: .*something follows the value; one object per line .*\.jsonl",
        ),
        ("a.json", '{"a": [], "b": []}', r"an object with 2 lists \('a', 'b'\)"),
        ("a.json", '{"a": 1}', r"an object with 0 lists \(none\)"),
        ("a.json", '[{"text": "a"}, "b"]', r"a\.json, row 2: str was found"),
        ("a.jsonl", '{"text": "a"}\n\n[1]\n', r"a\.jsonl, line 3: list was found"),
        ("a.json", '[{"a": ' + "[" * 100_000, r"a\.json, line 1: not valid JSON \(nested too deeply\)"),
        ("a.json", f'[{{"a": {"9" * 5000}}}]', r"a\.json, line 1: not valid JSON \(Exceeds the limit"),
        ("a.jsonl", '{"a": 1}\n{"a": ' + "[" * 100_000, r"a\.jsonl, line 2: JSON that cannot be read \(nested"),
        ("a.jsonl", f'{{"a": {"9" * 5000}}}', r"a\.jsonl, line 1: JSON that cannot be read \(Exceeds the limit"),
        ("a.csv", "text,label\na,1\nb,c,0\n", r"a\.csv, line 3: 3 fields were found; the header has 2"),
        ("a.csv", 'text,label\n"a,1\n', r"a\.csv, line 2: .*close the quotes"),
        ("a.tsv", "text\ttext\na\tb\n", r"names 'text' more than once"),
        ("a.xlsx", "text\n", r"ending '\.xlsx' is not known; allowed are \.jsonl, "),
    ],
)
def test_broken_file_is_one_clear_error(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(write(tmp_path / name, content))


def test_missing_file_suggests_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "text\na\n")
    with pytest.raises(FileNotFoundError, match=r"tarin\.csv: no such file; did you mean '.*train\.csv'\?"):
        read_table(tmp_path / "tarin.csv")


def test_missing_column_lists_what_was_found(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.csv", "sentence,lable\na,1\n"))
    with pytest.raises(ValueError, match=r"no column 'label'; found 'sentence', 'lable'. Did you mean 'lable'\?"):
        table.require("sentence", "label")
    one = read_table(write(tmp_path / "b.csv", "sentence;label\na;1\n"))
    with pytest.raises(ValueError, match=r"one column, 'sentence;label', .*separator looks like ';'"):
        one.require("sentence", "label")


@pytest.mark.real_data
def test_real_json_jsonl_and_csv(real_data: Path) -> None:
    assert len(read_table(real_data / "sft/alpaca/alpaca_tiny.json").rows) == 100
    assert len(read_table(real_data / "bbh/navigate.json").rows) == 250
    table = read_table(real_data / "math/gsm8k/test.jsonl")
    assert len(table.rows) == 1319
    table.require("question", "answer")
    assert len(read_table(real_data / "preference/metaaligner/gpt-3.5-turbo.head-100.csv").rows) == 100
