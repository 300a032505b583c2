"""GGUF files: which one a name stands for, and one sentence for a file that cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fulgurite.data.playground import resolve_backbone
from fulgurite.models import load_backbone
from fulgurite.models.gguf_files import gguf_file, gguf_source, read_header
from tests.models.gguf_writer import write_gguf

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load_backbone(resolve_backbone("playground"), "causal_lm").model
    return write_gguf(model, tmp_path_factory.mktemp("gguf") / "tiny.gguf", "Q8_0")


def test_what_a_file_says_of_itself(whole: Path) -> None:
    header = read_header(whole)
    assert (header.architecture, header.stored_as, len(header.tensors)) == ("llama", "Q8_0", 38)
    assert header.values["llama.block_count"] == 4 and header.values["tokenizer.ggml.tokens"] == 1024
    assert header.tensors["token_embd.weight"] == ("Q8_0", 1024 * 128)


def test_a_file_or_its_folder_and_nothing_else(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gguf_file(str(whole)) == gguf_file(str(whole.parent)) == whole
    assert gguf_file("playground") is gguf_file(resolve_backbone("playground")) is None
    assert gguf_source("a/hub-id") == ("a/hub-id", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.gguf").write_bytes(b"another one of that name in the current folder")
    assert gguf_source(str(whole)) == (str(whole.parent), {"gguf_file": str(whole)})
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / name).write_bytes(whole.read_bytes())
    with pytest.raises(ValueError, match=r"holds 2 GGUF files \(a\.gguf, b\.gguf\); give one of them"):
        gguf_file(str(tmp_path / "two"))
    with pytest.raises(FileNotFoundError, match=r"none\.gguf: no such file"):
        gguf_file("none.gguf")


@pytest.mark.parametrize("kept", [0, 3, 20, 100, 20_000, -100_000, -1])
def test_a_file_cut_short(whole: Path, tmp_path: Path, kept: int) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"cut\.gguf is (cut short|not a whole GGUF file|no GGUF file)") as caught:
        load_backbone(str(cut), "causal_lm")
    assert "\n" not in str(caught.value)


def test_other_files_that_cannot_be_read(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="pointer of Git LFS"):
        read_header(file)
    file.write_bytes(b"GGUF\x07" + whole.read_bytes()[5:])
    with pytest.raises(ValueError, match="GGUF version 7; allowed are 2 and 3"):
        read_header(file)
    model = load_backbone(resolve_backbone("playground"), "causal_lm").model
    part = write_gguf(model, tmp_path / "x-00001-of-00003.gguf", tokenizer=None, parts=3)
    with pytest.raises(ValueError, match=r"one of the 3 parts of a model; join them first"):
        read_header(part)
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    part.touch()
    with pytest.raises(ImportError, match=r"not installed; pip install 'fulgurite\[gguf\]'"):
        load_backbone(str(part), "causal_lm")
