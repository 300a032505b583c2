"""Attempts with templates: chat templates that drop a text, belong to another model or are no template, and repair's prompts.

What is shown is what must be said: a refusal that names what was given, one warning, or the right text before the model.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fulgurite.commands.shared.checkpoint_files import tell_other_template
from fulgurite.data.encoding.conversations import ConversationEncoder, Omission
from fulgurite.data.encoding.prompts import encode_prompt
from fulgurite.data.encoding.templates import ChatRenderer, apply_template
from fulgurite.data.records.conversation import Conversation, Turn
from fulgurite.evaluation.repair.prompts import Templates
from fulgurite.evaluation.runner.plan import plan_of
from fulgurite.evaluation.tasks import TASKS
from fulgurite.generation.protocol import SamplingSettings
from tests.acceptances.said import refusal, refused_by, rows_file
from tests.data.chat_tokenizers import byte_level, playground

LOOP = "{{% for m in messages %}}{}{{% endfor %}}{{% if add_generation_prompt %}}A:{{% endif %}}"
WHOLE = LOOP.format("{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}")


def template_file(folder: Path, text: str | bytes, name: str = "mine.jinja") -> str:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


FILES = [
    pytest.param(LOOP.format("{{ m['role'] }}: {{ m['contents'] }}"), "mine.jinja", "never writes the user's text",
                 id="a misspelt key, which Jinja writes as nothing"),
    pytest.param(LOOP.format("{{ m.text }}"), "mine.jinja", "never writes the user's text", id="the key of another schema"),
    pytest.param("Hello.", "mine.jinja", "never writes the user's text", id="a text without any field"),
    pytest.param(LOOP.format("{% if m['role'] == 'human' %}{{ m['content'] }}{% endif %}"), "mine.jinja", "never writes the user's",
                 id="roles of ShareGPT"),
    pytest.param(LOOP.format("{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}"), "mine.jinja", "the assistant's text",
                 id="questions alone, so that no answer could be trained"),
    pytest.param(json.dumps({"chat_template": WHOLE, "eos_token": "x"}), "tokenizer_config.json", "a JSON file",
                 id="a tokenizer's configuration in place of its template"),
    pytest.param("{% for m in messages %}{{ m['content'] }}{% endfr %}", "mine.jinja", "not valid Jinja", id="a misspelt end"),
    pytest.param("{{ strftime_now('%Y') }}{{ raise_exception('never') }}", "mine.jinja", "refuses these turns",
                 id="a template that refuses every chat"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "said"), FILES)
def test_files(text: str, name: str, said: str, tmp_path: Path) -> None:
    file = template_file(tmp_path, text, name)
    told = refusal(lambda: apply_template(byte_level(), file))
    assert said in told and name in told


def test_a_byte_order_mark_is_no_part_of_the_prompt(tmp_path: Path) -> None:
    """Windows' editors write one; it stood at the beginning of each prompt."""
    tokenizer = apply_template(byte_level(), template_file(tmp_path, b"\xef\xbb\xbf" + WHOLE.encode()))
    assert ChatRenderer(tokenizer).prompt([Turn("user", "Hi")]) == "user: Hi<eos>A:"


def test_lines_that_end_as_windows_has_them(tmp_path: Path) -> None:
    text = LOOP.format("{{ m['role'] }}\r\n{{ m['content'] }}{{ eos_token }}\r\n")
    tokenizer = apply_template(byte_level(), template_file(tmp_path, text))
    assert "\r" not in ChatRenderer(tokenizer).prompt([Turn("user", "Hi")])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("ChatML", id="a name in other letters"),
        pytest.param("templates/", id="a folder"),
        pytest.param("", id="an empty name"),
    ],
)
def test_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates").mkdir()
    assert f"{name!r} is neither a file nor a known name" in refusal(lambda: apply_template(byte_level(), name))


# A template that is published with some models: a system's words are left out without an error.
SYSTEMLESS = LOOP.format("{% if m['role'] != 'system' %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endif %}")
CHAT = (Turn("system", "Be kind."), Turn("user", "Hi"), Turn("assistant", "Hello."))


def systemless() -> Any:
    tokenizer = byte_level()
    tokenizer.chat_template = SYSTEMLESS
    return tokenizer


def test_a_systems_text_that_the_template_drops_before_an_answer() -> None:
    """`generate --system` and rows with a system's turn were answered without it."""
    assert "the messages hold the system's text, which the chat template never writes" in refusal(
        lambda: encode_prompt(systemless(), CHAT[:2])
    )
    assert encode_prompt(systemless(), CHAT[1:2]) and encode_prompt(systemless(), (Turn("system", ""), CHAT[1]))


def test_a_systems_text_that_the_template_drops_in_training() -> None:
    """Such rows are left out and counted, as those with tools that no template writes."""
    encoder = ConversationEncoder(systemless(), 64)
    ((found, *_), (kept, *_)) = encoder.encode([Conversation(turns, "rows", 1) for turns in (CHAT, CHAT[1:])])
    assert isinstance(found, Omission) and "the system's text" in found.reason and not isinstance(kept, Omission)


def test_a_template_that_refuses_systems_is_no_template_that_drops_them() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + WHOLE
    )
    assert "no system" in refusal(lambda: encode_prompt(tokenizer, CHAT[:2]))
    assert encode_prompt(tokenizer, CHAT[1:2])


@pytest.mark.parametrize("change", ["{{ m['content'] | upper }}", "{{ m['content'].strip() }}"])
def test_templates_that_change_a_texts_letters_or_blanks_are_fine(change: str, tmp_path: Path) -> None:
    file = template_file(tmp_path, LOOP.format("{{ m['role'] }}: " + change + "{{ eos_token }}"))
    assert ChatRenderer(apply_template(byte_level(), file)).unused(CHAT) == []


GENERATE = ["generate", "--model", "playground"]
EVALUATE = ["evaluate", "--model", "playground", "--tasks", "gsm8k", "--path", "builtin", "--out", "OUT"]
REPAIRED = ["repair", "--model", "playground", "--tasks", "humaneval", "--path", "ROWS", "--out", "OUT"]
OPTIONS = [
    pytest.param([*GENERATE, "--chat", "--template", "none"], "--template none with --chat",
                 id="a chat without a template, for which another one was laid"),
    pytest.param([*GENERATE, "--prompt", "a", "--system", "s", "--template", "none"], "needs a chat template",
                 id="a system's text on plain text"),
    pytest.param([*EVALUATE, "--template", "chatml"],
                 "--template chatml has no effect without --chat", id="a template for texts that are continued"),
    pytest.param([*EVALUATE, "--chat", "--template", "none"], "--template none with --chat", id="a benchmark in a chat of none"),
    pytest.param([*REPAIRED, "--template", "zephyr"],
                 "--template zephyr has no effect without --chat", id="a template for repairs that are continued"),
    pytest.param([*GENERATE, "--prompt", "a", "--template", "chatml"], "marks <|im_start|>, <|im_end|>",
                 id="marks that are no tokens of this model"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), OPTIONS)
def test_commands(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(tmp_path / word) if word in ("OUT", "ROWS") else word for word in words]
    assert said in refused_by(given, capsys)
    assert not (tmp_path / "OUT").exists()


@pytest.mark.parametrize(
    ("trained", "laid", "told"),
    [
        pytest.param(WHOLE, SYSTEMLESS, True, id="another one"),
        pytest.param(WHOLE, WHOLE, False, id="the same by its name"),
        pytest.param(None, WHOLE, False, id="a checkpoint that does not say"),
    ],
)
def test_a_template_beside_the_checkpoints_own(
    trained: str | None, laid: str, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An explicit --template is obeyed, but no longer without a word."""
    with caplog.at_level(logging.WARNING):
        tell_other_template("last.ckpt", trained, laid)
    assert ("last.ckpt was trained with another chat template" in caplog.text) is told


REPAIR = [
    pytest.param("write.completion.jinja", "Write a program.\n", "names no field", id="a request without the problem"),
    pytest.param("repair.chat.jinja", "", "names no field", id="an empty file"),
    pytest.param("teach.chat.jinja", "{{ Program }}", "unknown field 'Program'", id="a field in other letters"),
    pytest.param("repair.chat.jinja", "{{ program.code }}", "cannot be rendered", id="a field of a field"),
    pytest.param("repair.chat.jinja", "{% include 'teach' %}{{ program }}", "cannot be rendered|no loader", id="another file"),
    pytest.param("Repair.chat.jinja", "{{ program }}", "is no template", id="a name in other letters"),
    pytest.param("repair.chat.jinja.bak", "{{ program }}", "is no template", id="a copy of an editor"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "said"), REPAIR)
def test_templates_of_repair(name: str, text: str, said: str, tmp_path: Path) -> None:
    template_file(tmp_path, text, name)
    told = refusal(lambda: Templates(tmp_path))
    assert any(words in told for words in said.split("|")) and name in told


def test_a_byte_order_mark_in_a_template_of_repair(tmp_path: Path) -> None:
    template_file(tmp_path, b"\xef\xbb\xbfMend {{ program }}", "repair.completion.jinja")
    assert Templates(tmp_path).text("repair", False, {"program": "p"}) == "Mend p"


def test_braces_of_a_row_are_no_template() -> None:
    """A program or question that looks like Jinja is text."""
    text = Templates().text("repair", True, {"program": "x = {{ 7 * 7 }}", "task": "{% raw %}"})
    assert "{{ 7 * 7 }}" in text and "{% raw %}" in text and "49" not in text
    assert "{{ 7 }}" in ChatRenderer(apply_template(byte_level(), "zephyr")).prompt([Turn("user", "{{ 7 }}")])


def test_a_chat_of_a_benchmark_asks_the_question_once(tmp_path: Path) -> None:
    """A task without a question of its own for chats asks its prompt, behind the examples."""
    asked = rows_file(tmp_path / "asked.jsonl", [{"input": "abc", "targets": ["abc"]}])
    shown = rows_file(tmp_path / "shown.jsonl", [{"input": "xyz", "targets": ["xyz"]}])
    task, drawn = TASKS["bigbench_unnatural_identity"], SamplingSettings()
    plan = plan_of(task, asked, tmp_path, drawn, shots=1, shots_path=shown, chat=True)
    prompt: Any = plan.prompt(plan.items[0])
    text = playground().decode(encode_prompt(playground(), prompt))
    assert (
        text.startswith("<bos><|user|>\nInput: xyz\nOutput: xyz\n\nInput: abc\nOutput:<|end|>")
        and text.count("abc") == 1
    )
