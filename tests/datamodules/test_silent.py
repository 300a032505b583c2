"""What used to be accepted without a word, or refused without help, in files of labelled rows and options of data modules."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from fulgurite.datamodules import FilesDataModule, GLUEDataModule, PETTasksDataModule, SFTDataModule

ROWS = "".join(f"a film {i}\t{i % 2}\n" for i in range(30))
HIDDEN = ROWS.replace("\t1\n", "\t-1\n")
PAIRS = ['{"text":"a","label":%s}\n', '{"text":"b","label":%s}\n']


def files(path: str, **options: Any) -> Any:
    return FilesDataModule(path, tokenizer="playground", **options)


def regression(path: str) -> Any:
    return files(path, task_type="regression")


def glue(path: str) -> Any:
    return GLUEDataModule("sst2", path=path, splits="train", tokenizer="playground")


def pet(path: str) -> Any:
    return PETTasksDataModule("sst2", path=path, tokenizer="playground")


def chats(path: str) -> Any:
    return SFTDataModule(path=path, val_fraction=0, tokenizer="playground")


CASES = {
    "a key twice in a line": (
        "t.jsonl",
        '{"text":"a","label":0,"label":1}\n' * 9,
        files,
        r"line 1: .*the key 'label' stands twice",
    ),
    "a key twice in a list": (
        "t.json",
        '[{"text":"a","label":0,"text":"b"}]',
        files,
        r"line 1: .*the key 'text' stands twice",
    ),
    "a key twice further in": (
        "t.jsonl",
        '{"messages":[{"role":"user","role":"user","content":"a"}]}\n',
        chats,
        r"the key 'role' stands twice",
    ),
    "a column twice": (
        "train.tsv",
        "sentence\tlabel\tlabel\n" + ROWS.replace("\n", "\t0\n"),
        glue,
        r"names 'label' more than once",
    ),
    "numbers and words": (
        "t.jsonl",
        (PAIRS[0] % '"good"' + PAIRS[1] % "0") * 9,
        files,
        r"numbers such as 0, words such as 'good'; one",
    ),
    "numbers and true": (
        "t.jsonl",
        (PAIRS[0] % "true" + PAIRS[1] % "0") * 9,
        files,
        r"numbers such as 0, true or false such as True",
    ),
    "true as a value": (
        "t.jsonl",
        (PAIRS[0] % "0.5" + PAIRS[1] % "true") * 9,
        regression,
        r"line 2: the label is True; allowed is a finite",
    ),
    "many empty texts": (
        "t.csv",
        "text,label\n" + 'good,1\n"",0\n' * 9,
        files,
        r"have an empty text, the first is row \d+; at most a tenth",
    ),
    "an empty Alpaca list": ("a.json", "[]", chats, r"a\.json: the file has no row"),
    "an empty Alpaca file": ("a.json", " \n", chats, r"a\.json: the file has no row"),
    "labels of -1": (
        "train.tsv",
        "sentence\tlabel\n" + HIDDEN,
        glue,
        r"15 of 30 rows have no label; .* -1 stand for a hidden label, the first is in",
    ),
    "test rows": (
        "test.tsv",
        "index\tsentence\n0\ta film\n" * 1,
        glue,
        r"1 of 1 rows have no label; .*no such column; .*file of test rows",
    ),
    "test rows of another module": (
        "train.csv",
        "sentence,label\n" + HIDDEN.replace("\t", ","),
        pet,
        r"15 of 30 rows have no label; .*hidden",
    ),
    "no column of labels": (
        "t.csv",
        "text\n" + "film\n" * 9,
        files,
        r"one column, 'text', was found; .*; add a column 'label'",
    ),
    "another case": (
        "t.csv",
        "Text,Label\n" + ROWS.replace("\t", ","),
        files,
        r"'Text' differs in upper and lower case only",
    ),
    "another case in GLUE": (
        "train.tsv",
        "Sentence\tLabel\n" + ROWS,
        glue,
        r"'Sentence' differs in upper and lower case only",
    ),
    "another ending": ("t.xlsx", "x", files, r"ending '.xlsx' is not known; allowed are .jsonl"),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_it_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    file, text, make, message = CASES[name]
    (tmp_path / file).write_text(text)
    data = make(str(tmp_path / file))
    data.cache_dir = tmp_path / "cache"
    with pytest.raises(ValueError, match=message):
        data.setup("fit")


def test_few_empty_texts_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 10 + '"",0\n')
    with caplog.at_level(logging.WARNING):
        files(str(tmp_path / "t.csv"), val_path=str(tmp_path / "t.csv"), cache_dir=str(tmp_path)).setup("fit")
    assert "1 of 21 train rows have an empty text, the first is row 22" in caplog.text


def test_training_rows_of_one_class_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\n" + "good,1\n" * 40 + "bad,0\n")
    data = files(str(tmp_path / "t.csv"), limit_train=5, cache_dir=str(tmp_path))
    data.setup("fit")
    with pytest.raises(
        ValueError, match=r"FilesDataModule: all 5 training rows have the label '1'; two classes at least"
    ):
        data.train_dataloader()


def test_a_max_length_without_room_is_refused(tmp_path: Path, word_tokenizer: Path) -> None:
    for kind in (FilesDataModule, SFTDataModule, GLUEDataModule):
        with pytest.raises(ValueError, match=f"{kind.__name__}: max_length is 1; it must be at least 2"):
            kind("x", max_length=1) if kind is FilesDataModule else kind(max_length=1)
    (tmp_path / "t.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 9)
    with pytest.raises(
        ValueError, match=r"max_length is 2, of which the tokenizer's own tokens take 2; at least 3 is needed"
    ):
        FilesDataModule(
            str(tmp_path / "t.csv"), tokenizer=str(word_tokenizer), max_length=2, cache_dir=str(tmp_path)
        ).setup("fit")
