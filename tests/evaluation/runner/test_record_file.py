"""Files that only grow: torn lines, other identities, damage, a full disk, two writers."""

import errno
import json
import os
import random
from pathlib import Path

import pytest

from fulgurite.evaluation.runner.record_file import IdentityError, RecordFile, differences, read_records

KEY = ("item", "index")


def opened(path: Path, **identity: object) -> RecordFile:
    return RecordFile(path, "samples", identity or {"model": "a"}, KEY)


def filled(path: Path, count: int = 6) -> bytes:
    with opened(path) as file:
        for i in range(count):
            file.add({"item": f"ä {i}", "index": 0, "text": "x" * i})
    return path.read_bytes()


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "samples.jsonl"
    filled(path)
    with opened(path) as file:
        assert [record["item"] for record in file.records] == [f"ä {i}" for i in range(6)]
        assert file.repaired == 0
    identity, records = read_records(path, KEY)
    assert identity == {"model": "a"} and len(records) == 6


def test_a_file_that_was_cut_at_any_byte_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    whole = filled(path)
    lines = whole.split(b"\n")
    for cut in sorted({*random.Random(0).sample(range(len(whole)), 40), 0, 1, len(whole) - 1, len(whole)}):
        path.write_bytes(whole[:cut])
        complete = whole[:cut].count(b"\n")
        with opened(path) as file:
            assert len(file.records) == max(0, complete - 1), cut
            assert file.repaired == len(whole[:cut]) - whole[:cut].rfind(b"\n") - 1
            file.add({"item": "new", "index": 0})
        found = path.read_bytes().split(b"\n")
        assert found[: max(1, complete)] == lines[: max(1, complete)]
        assert json.loads(found[-2])["item"] == "new" and found[-1] == b""


def test_another_identity_is_refused_with_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    whole = filled(path)
    with pytest.raises(IdentityError, match=r'another identity \(model: "a" there, "b" now\); they are not mixed'):
        opened(path, model="b")
    assert path.read_bytes() == whole
    with RecordFile(path, "samples", {"model": "b"}, KEY, replace=True) as file:
        assert file.records == []
    with pytest.raises(IdentityError, match="no file of scores"):
        RecordFile(path, "scores", {"model": "b"}, KEY)


def test_differences_name_inner_fields() -> None:
    there, here = {"writer": {"adapter": None, "model": "m"}, "shots": 0}, {"writer": {"adapter": "x", "model": "m"}}
    assert differences(there, here) == ["shots: 0 there, null now", 'writer.adapter: null there, "x" now']


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    whole = filled(path)
    lines = whole.split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], lines[2][:-4], *lines[3:]]))
    with pytest.raises(ValueError, match=r"line 3: damaged"):
        opened(path)
    path.write_bytes(b"\n".join([*lines[:3], lines[2], *lines[3:]]))
    with pytest.raises(ValueError, match=r"line 4: ä 1, 0 stands in line 3 already"):
        opened(path)


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "samples.jsonl"
    whole = filled(path)
    real = os.pwrite

    def full(handle: int, data: bytes, at: int) -> int:
        if len(data) > 30:
            return real(handle, data[:30], at)  # part of it fits
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(path) as file:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match=r"No space left on device.*run the same command again"):
            file.add({"item": "new", "index": 0, "text": "y" * 40})
        assert path.read_bytes() == whole
        monkeypatch.setattr(os, "pwrite", real)
        file.add({"item": "new", "index": 0})
    assert len(read_records(path, KEY)[1]) == 7


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with opened(path), pytest.raises(OSError, match="another process writes it"):
        opened(path)
    with opened(path):
        pass
