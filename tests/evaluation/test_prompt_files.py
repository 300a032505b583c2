"""Template files of any verb; what repair's own say about mistakes: tests/evaluation/repair/test_prompts.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from fulgurite.evaluation.prompt_files import PromptFiles, copy_files

FIELDS = {"name": "a name", "parts": "a list"}


def test_fields_that_are_no_texts_are_tried_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jinja").write_text("{% for part in parts %}{{ part.upper() }}{% endfor %}{{ name }}")
    files = PromptFiles("verb", tmp_path, ["a.jinja"], FIELDS, {"parts": ["x"]})
    assert files.text("a.jinja", {"parts": ["b", "c"], "name": "{{ parts }}"}) == "BC{{ parts }}"
    with pytest.raises(ValueError, match=r"verb: the template .*a\.jinja cannot be rendered"):
        PromptFiles("verb", tmp_path, ["a.jinja"], FIELDS, {"parts": [1]})


def test_copies_leave_what_is_there(tmp_path: Path) -> None:
    own, folder = tmp_path / "own", tmp_path / "mine"
    own.mkdir()
    folder.mkdir()
    for name in ("a", "b"):
        (own / f"{name}.jinja").write_text(name)
    (folder / "a.jinja").write_text("mine")
    assert [file.name for file in copy_files(own, folder)] == ["b.jinja"]
    assert PromptFiles("verb", own, ["a.jinja", "b.jinja"], FIELDS, folder=folder).text("a.jinja", {}) == "mine"
