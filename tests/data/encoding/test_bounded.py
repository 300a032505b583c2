"""Chat templates that do not end, or that write or need without limit, are refused in one sentence, soon."""

import sys
import time
from pathlib import Path

import pytest

from fulgurite.data.encoding import bounded
from fulgurite.data.encoding.bounded import TemplateRunsOn
from fulgurite.data.encoding.templates import ChatRenderer, apply_template
from fulgurite.data.records.conversation import Turn
from tests.data.chat_tokenizers import byte_level

_ROUNDS = "{% for i in range(100000) %}{% for j in range(100000) %}{% for k in range(100000) %}{% endfor %}{% endfor %}{% endfor %}"
_GROWS = "{% set ns = namespace(t='aaaa') %}{% for i in range(64) %}{% set ns.t = GROWN %}{% endfor %}"
RUNNING_ON = {
    "loops": (_ROUNDS, "rounds of its loops"),
    "macro": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
        "and macros",
    ),
    "recursive loop": (
        "{% for i in [[[[]]]] recursive %}{% if loop.depth < 90 %}{{ loop([1]) }}{{ loop([1]) }}{% endif %}{% endfor %}",
        "rounds",
    ),
    "output": ("{% for i in range(100000) %}{{ 'x' * 100000 }}{% endfor %}", r"writes more than [\d,]+ characters"),
    "product": ("{{ 'a' * 10000000000 }}", "repeats a text"),
    "power": ("{{ 10 ** (10 ** 10) }}", "number of more than"),
}
GREEDY = {
    "joined": _GROWS.replace("GROWN", "ns.t ~ ns.t"),
    "replaced": _GROWS.replace("GROWN", "ns.t | replace('a', 'aaaaaaaaaaaa')"),
    "padded": "{{ 'x' | center(9999999999) }}",
    "formatted": "{{ '%09999999999d' % 1 }}",
    "block": "{% set ns = namespace(t='aaaa') %}{% for i in range(64) %}{% set x %}{{ ns.t }}{{ ns.t }}{% endset %}"
    "{% set ns.t = x %}{% endfor %}",
}


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "_ROUNDS", 100_000)
    monkeypatch.setattr(bounded, "_MEMORY", 1 << 28)
    bounded.compiled.cache_clear()


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory has a limit on Linux only")
CASES = [pytest.param(*case, id=name) for name, case in RUNNING_ON.items()]
CASES += [pytest.param(text, "GiB of memory", id=name, marks=LINUX) for name, text in GREEDY.items()]


@pytest.mark.slow
@pytest.mark.parametrize(("template", "words"), CASES)
def test_a_template_that_runs_on_is_refused_before_it_is_used(few_rounds: None, template: str, words: str) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    began = time.monotonic()
    with pytest.raises(TemplateRunsOn, match=f"the chat template .*{words}.*correct it, or choose another template"):
        ChatRenderer(tokenizer)
    assert time.monotonic() - began < 10


def test_a_template_that_runs_on_for_one_chat_only_is_refused_there(few_rounds: None) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = "{% if messages[0].content == 'go' %}" + _ROUNDS + "{% endif %}{{ messages[0].content }}"
    renderer = ChatRenderer(tokenizer)
    assert renderer.prompt([Turn("user", "stay")]) == "stay"
    with pytest.raises(TemplateRunsOn, match="rounds of its loops"):
        renderer.prompt([Turn("user", "go")])


def test_the_clock_ends_a_template_whose_rounds_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "_SECONDS", 0.2)
    bounded.compiled.cache_clear()
    tokenizer = byte_level()
    tokenizer.chat_template = "{% for i in range(100000) %}{% set t = ('ab' * 20000) | upper %}{% endfor %}"
    with pytest.raises(TemplateRunsOn, match="does not end within 0 seconds"):
        ChatRenderer(tokenizer)
    bounded.compiled.cache_clear()


def test_a_file_that_runs_on_is_named_by_what_is_wrong(few_rounds: None, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text(_ROUNDS)
    tokenizer = byte_level()
    with pytest.raises(ValueError, match=r"template\.jinja.*does not end"):
        apply_template(tokenizer, str(file))


def test_the_limits_leave_long_chats_alone() -> None:
    renderer = ChatRenderer(apply_template(byte_level(), "ultrachat"))
    turns = [Turn("user", "a" * (bounded._CHARACTERS + 1))]
    assert len(renderer.prompt(turns)) > bounded._CHARACTERS


def test_the_memory_limit_is_lifted_again() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    bounded.compiled.cache_clear()
    ChatRenderer(apply_template(byte_level(), "ultrachat"))
    assert resource.getrlimit(resource.RLIMIT_AS) == before
