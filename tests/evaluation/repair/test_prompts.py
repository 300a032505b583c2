"""Template files: whatever is wrong with one is said before anything runs, and what they show is shown as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from fulgurite.evaluation.repair.prompts import FIELDS, Templates, copy_templates, stops_of
from fulgurite.evaluation.tasks.code.programs import STOPS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ task }} {{ bug }} {{ hint }}", "names the unknown field 'bug', 'hint'; the fields are: task, start,"),
        ("{% if task %}", "line 1: Unexpected end of template"),
        ("{{ error.type }}", "cannot be rendered"),
        ("{{ task.__class__.__mro__ }}", "cannot be rendered"),
        ("{{ 1 / 0 }}", "cannot be rendered"),
        ("{% include 'other' %}", "cannot be rendered"),
    ],
)
def test_a_template_with_a_mistake(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "teach.chat.jinja").write_text(text)
    with pytest.raises(ValueError) as caught:
        Templates(tmp_path)
    assert said in str(caught.value) and "teach.chat.jinja" in str(caught.value)


def test_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "teacher.jinja").write_text("x")
    with pytest.raises(ValueError, match=r"teacher\.jinja is no template; the names are: write\.completion\.jinja"):
        Templates(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder of templates"):
        Templates(tmp_path / "nowhere")


def test_a_file_of_ones_own_replaces_ours(tmp_path: Path) -> None:
    assert len(copy_templates(tmp_path)) == 12 and copy_templates(tmp_path) == []
    assert Templates(tmp_path).hashes == Templates().hashes
    (tmp_path / "teach.chat.jinja").write_text("Say why {{ entry_point }} fails.\n")
    for file in tmp_path.glob("w*"):
        file.unlink()
    changed = Templates(tmp_path)
    assert changed.text("teach", True, {"entry_point": "f"}) == "Say why f fails."
    assert [name for name, mark in changed.hashes.items() if mark != Templates().hashes[name]] == ["teach.chat.jinja"]


def test_a_program_is_shown_as_it_is() -> None:
    program = "def f():\n    return '{{ error }} {% raw %} %%%buggy_code%%% <b>&'"
    text = Templates().text("teach", False, {"program": program, "error": "TypeError", "task": "t"})
    assert program in text and text.endswith("### How to mend it\n") and text.count("TypeError") == 1


@pytest.mark.parametrize("chat", [True, False])
def test_every_prompt_says_what_it_has_to(chat: bool) -> None:
    templates, marks = Templates(), {name: f"<{name}>" for name in FIELDS if name not in ("start", "turn")}
    state = ("<task>", "<program>", "<error>")
    wanted = {"teach": state, "repair": (*state, "<explanation>"), "repair_error": state, "repair_steps": state,
              "tests": ("<task>", "<entry_point>"), "write": ("<task>",)}  # fmt: skip
    for name, parts in wanted.items():
        text = templates.text(name, chat, marks)
        assert all(part in text for part in parts), name
        assert ("<explanation>" in text) == (name == "repair")


def test_a_completion_goes_on_from_the_beginning_of_the_program() -> None:
    start = 'def f(x):\n    """Text."""\n'
    for name in ("write", "repair", "repair_error"):
        assert Templates().text(name, False, {"start": start, "task": "t"}).endswith(start)
        assert Templates().text(name, False, {"task": "t"}).endswith("```python\n")
    assert Templates().text("write", False, {"start": start, "task": "t"}) == start, "HumanEval's prompt as it stands"


def test_no_stop_text_cuts_an_explanation_at_a_word_of_python() -> None:
    text = "The name is not defined here.\ndef comes first. Put\n    return x\nbehind it."
    for name in ("teach", "repair_steps"):
        assert not any(stop in text for stop in stops_of(name, STOPS))
    assert "\ndef " in stops_of("repair", STOPS) and stops_of("repair", ()) == ("\n```",)
