"""All beginnings of a chat out of one rendering: the same texts, tokens and masks as rendering each, or none at all."""

import itertools
import json
import random
from typing import Any

import pytest

from fulgurite.data.encoding.answer_spans import AnswerFinder
from fulgurite.data.encoding.bounded import BoundedTemplate, compiled
from fulgurite.data.encoding.conversations import ConversationEncoder
from fulgurite.data.encoding.prefixes import beginnings
from fulgurite.data.encoding.templates import TEMPLATES, ChatRenderer, apply_template
from fulgurite.data.records.conversation import Conversation, Turn
from tests.data.chat_tokenizers import BUILT, HABITS, byte_level, playground, sentencepiece
from tests.data.encoding.test_answer_spans import CALL, LAST_END, NEXT_MARK, TOOLS, TWO_ENDS

# After published templates, shortened.
QWEN = (  # looks ahead, but only where tools answer
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}{%- else %}"
    "{{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif %}{%- for message in messages %}"
    "{%- if (message.role == 'user') or (message.role == 'system' and not loop.first) or "
    "(message.role == 'assistant' and not message.tool_calls) %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- elif message.role == 'assistant' %}{{- '<|im_start|>' + message.role }}{%- for call in message.tool_calls %}"
    "{{- '\n<call>' + call.function.name + '</call>' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- elif message.role == 'tool' %}"
    "{%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != 'tool') %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\n<response>' + message.content }}"
    "{%- if loop.last or (messages[loop.index0 + 1].role != 'tool') %}{{- '<|im_end|>\n' }}{%- endif %}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA = (  # takes the system turn out of the list
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- '<|im_start|>system\n\n' + date_string + '\n\n' + system_message + '<|im_end|>' }}"
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n\n' + message['content'] | trim + '<|im_end|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n\n' }}{%- endif %}"
)
GEMMA = (  # checks the roles
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<|im_start|>' + role + '\n' + message['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>model\n'}}{% endif %}"
)
DEEPSEEK = (  # what follows the loop depends on what it has seen
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(is_tool=false) %}{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% set ns.is_tool = false %}{{ '<|user|>' + message['content'] }}{% else %}"
    "{{ '<|assistant|>' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and not ns.is_tool %}{{ '<|assistant|>' }}{% endif %}"
)
MISTRAL = (  # two loops
    "{%- set ns = namespace(index=0) %}{%- for message in messages %}"
    "{%- if (message['role'] == 'user') != (ns.index % 2 == 0) %}{{- raise_exception('roles') }}{%- endif %}"
    "{%- set ns.index = ns.index + 1 %}{%- endfor %}{{- bos_token }}{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- else %}"
    "{{- ' ' + message['content'] + eos_token }}{%- endif %}{%- endfor %}"
)
LINEAR = {
    **{name: HABITS[name] for name in ("llama3", "llama2", "straddling", "endless", "thinking")},
    "two ends": TWO_ENDS, "next mark": NEXT_MARK, "last end": LAST_END, "tools": TOOLS,
    "qwen": QWEN, "llama 3.1": LLAMA, "gemma": GEMMA,
}  # fmt: skip
OTHERS = {"rewriting": HABITS["rewriting"], "deepseek": DEEPSEEK, "mistral": MISTRAL}
VARIABLES = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}


def messages(count: int, system: bool = False) -> list[dict[str, Any]]:
    begin = [{"role": "system", "content": " S "}] if system else []
    return begin + [{"role": ("user", "assistant")[i % 2], "content": f"t{i}"} for i in range(count)]


def chat(count: int, system: bool = False) -> Conversation:
    turns = [Turn(m["role"], m["content"]) for m in messages(count, system)]
    return Conversation(tuple(turns), "chats.jsonl", 1)


def told(source: str, given: list[dict[str, Any]], prompt: bool) -> int:
    """How many beginnings one rendering tells; each is compared with its own rendering."""
    template = compiled(source)
    found = beginnings(template, given, prompt, VARIABLES)
    count = 0
    for n in range(len(given) + 1):
        known = found.of(n) if found is not None else None
        if known is not None:
            assert known == template.render(given[:n], prompt, VARIABLES), (source, n, prompt)
            count += 1
    return count


@pytest.mark.parametrize("name", [*LINEAR, *TEMPLATES])
def test_a_template_that_writes_turn_after_turn_is_rendered_twice_for_all_answers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = LINEAR.get(name)
    if name in TEMPLATES:
        tokenizer = apply_template(playground() if name == "playground" else tokenizer, name)
    finder = AnswerFinder(tokenizer)
    renderings = []
    render = BoundedTemplate.render
    monkeypatch.setattr(BoundedTemplate, "render", lambda *a, **k: renderings.append(1) or render(*a, **k))
    (piece,) = finder.pieces(chat(800))
    assert len(piece.answers) == 400 and len(renderings) == 2


@pytest.mark.parametrize("tokenizer", [byte_level, sentencepiece])
@pytest.mark.parametrize("name", [*LINEAR, *OTHERS])
def test_tokens_and_masks_are_those_of_renderings_one_by_one(
    name: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tokenizer()
    found.chat_template = {**LINEAR, **OTHERS}[name]
    call = (Turn("user", "rain?"), Turn("assistant", "", extra=CALL), Turn("user", "so"), Turn("assistant", "no"))
    for conversation in (chat(6), chat(7), chat(6, True), chat(2), Conversation(call, "chats.jsonl", 2)):
        for supervise in ("assistant", "last", "all"):
            for max_length in (1000, 60):
                rows: list[Any] = []
                for switched_off in (False, True):
                    with monkeypatch.context() as patch:
                        if switched_off:
                            patch.setattr(ChatRenderer, "beginnings", lambda *_: None)
                        try:
                            rows.append(ConversationEncoder(found, max_length, supervise).encode([conversation]))  # type: ignore[arg-type]
                        except ValueError as error:
                            rows.append(str(error))
                assert rows[0] == rows[1], (conversation, supervise, max_length)


@pytest.mark.parametrize("name", BUILT)
def test_the_named_templates_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for template in TEMPLATES:
        try:
            tokenizer = apply_template(BUILT[name](), template)
        except ValueError:  # its marks are no tokens here
            continue
        finder = AnswerFinder(tokenizer)
        fast = [finder.pieces(chat(n, system)) for n in (2, 9, 10) for system in (False, True)]
        with monkeypatch.context() as patch:
            patch.setattr(ChatRenderer, "beginnings", lambda *_: None)
            assert fast == [finder.pieces(chat(n, system)) for n in (2, 9, 10) for system in (False, True)]


def test_templates_of_the_kinds_in_use_are_told_from_the_first_turn_on() -> None:
    for name, source in LINEAR.items():
        for system in (False, True):
            given = messages(8, system)
            if name == "gemma" and system:
                continue  # its roles must alternate
            for prompt in (True, False):
                assert told(source, given, prompt) >= 8, name


def test_a_template_that_looks_ahead_in_some_turns_only_is_told_where_it_does_not() -> None:
    assert told(QWEN, messages(6), True) == 6
    answered = [*messages(2), {"role": "tool", "content": "42"}, {"role": "assistant", "content": "so"}]
    assert told(QWEN, answered, True) == 0


_LOOP = "{% for m in messages %}{{ m.content }}BODY{% endfor %}"
LOOKING = {
    "last": "{% if loop.last %}!{% endif %}", "next": "{{ loop.nextitem.content }}", "length": "{{ loop.length }}",
    "from the end": "{{ loop.revindex }}", "the last message": "{{ messages[-1].content }}",
    "a later one": "{{ messages[3].content }}",
    "one behind": "{{ messages[loop.index].content }}", "count": "{{ messages | length }}", "a filter": "{{ messages | first }}",
    "a slice": "{{ messages[:2] | length }}", "reversed": "{{ messages[::-1][0].content }}", "as text": "{{ messages }}",
    "joined": "{{ 'x' ~ messages }}", "json": "{{ messages | tojson }}", "a test": "{% if messages is sequence %}!{% endif %}",
    "inner loop": "{% for n in messages %}{{ n.role }}{% endfor %}", "sum": "{{ (messages + messages) | length }}",
    "selected": "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "equal": "{{ messages == [] }}",
    "break": "{% if loop.index0 == 3 %}{% break %}{% endif %}", "inside": "{{ m in messages }}",
    "attribute": "{{ messages.append }}",
}  # fmt: skip
BEHIND = {
    "namespace": "{{ ns.seen }}", "macro": "{{ show() }}", "again": "{% for m in messages %}.{% endfor %}",
    "cycler": "{{ turn.next() }}",
    "count": "{{ messages | length }}", "last": "{{ messages[-1].role }}", "alias": "{{ other.seen }}", "joiner": "{{ comma() }}",
    "truth": "{{ 'y' if messages }}", "first": "{{ messages[0].role }}", "generator": "{{ ones | first }}",
}  # fmt: skip
_BEFORE = (
    "{% set ns = namespace(seen=0) %}{% set other = ns %}{% set turn = cycler('a', 'b') %}{% set comma = joiner(',') %}"
    "{% set ones = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12] | map('string') %}{% macro show() %}{{ ns.seen }}{% endmacro %}"
)
_COUNTING = "{% set ns.seen = ns.seen + 1 %}{% set _ = turn.next() %}{{ comma() }}{{ ones | first }}"


@pytest.mark.parametrize("what", LOOKING)
@pytest.mark.parametrize("begin", ["", "{% set messages = messages[1:] %}"])
def test_a_look_at_what_a_shorter_chat_does_not_have_ends_the_attempt(what: str, begin: str) -> None:
    assert told(begin + _LOOP.replace("BODY", LOOKING[what]), messages(6), True) == 0
    assert told(
        LOOKING[what].replace("loop.", "x.").replace("break", "if 0 %}{% endif") + _LOOP, messages(6), True
    ) in (0, 6)


@pytest.mark.parametrize("what", BEHIND)
def test_what_follows_the_loop_may_not_read_what_its_rounds_change(what: str) -> None:
    assert told(_BEFORE + _LOOP.replace("BODY", _COUNTING) + BEHIND[what], messages(6), True) == 0
    assert told(_BEFORE + _LOOP.replace("BODY", _COUNTING), messages(6), True) == 6


@pytest.mark.slow
def test_random_templates_are_told_right_or_not_at_all() -> None:
    pick = random.Random(0)
    before = [
        "",
        "{{ bos_token }}",
        _BEFORE,
        "{% set messages = messages[1:] %}",
        "{% if messages %}{{ messages[0].role }}{% endif %}",
    ]
    heads = ["{% for m in messages %}", "{% for m in messages if m.role != 'system' %}", "{% for m in messages[1:] %}"]
    plain = ["{{ m.role }}", "{{ loop.index }}", "{% if loop.first %}F{% endif %}", "{{ loop.previtem.content }}",
             "{{ eos_token }}",
             "{{ messages[loop.index0].content }}", "{{ loop.changed(m.role) }}",
             "{% if m.role == 'user' %}{% continue %}{% endif %}",
             "{% generation %}{{ m.content }}{% endgeneration %}"]  # fmt: skip
    ends = ["{% endfor %}", "{% else %}none{% endfor %}"]
    behind = [
        "",
        "{% if add_generation_prompt %}A:{% endif %}",
        "{{ eos_token }}",
        "{% generation %}E{% endgeneration %}",
    ]
    known = 0
    for _ in range(200):
        source = pick.choice(before) + pick.choice(heads) + "{{ m.content }}"
        source += "".join(pick.choice(plain) for _ in range(pick.randint(0, 3)))
        if pick.random() < 0.4:
            source += pick.choice(list(LOOKING.values()))
        source += pick.choice(ends) if pick.random() < 0.3 else ends[0]
        source += pick.choice(behind) + (pick.choice(list(BEHIND.values())) if pick.random() < 0.3 else "")
        for system, prompt in itertools.product((False, True), repeat=2):
            known += told(source, messages(5, system), prompt)
    assert known > 500


def test_a_refusal_of_the_template_is_the_one_of_the_shorter_chat() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = GEMMA
    turns = (
        Turn("user", "a"),
        Turn("assistant", "b"),
        Turn("assistant", "c"),
        Turn("user", "d"),
        Turn("assistant", "e"),
    )
    with pytest.raises(ValueError, match=r"chats\.jsonl.*must alternate"):
        AnswerFinder(tokenizer).pieces(Conversation(turns, "chats.jsonl", 1))


def test_tools_and_calls_are_told_too() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = TOOLS
    turns = (Turn("user", "rain?"), Turn("assistant", "", extra=CALL), Turn("user", "so?"), Turn("assistant", "no"))
    finder = AnswerFinder(tokenizer)
    (piece,) = finder.pieces(Conversation(turns, "x", 1, tools=json.dumps([{"name": "weather"}])))
    assert [answer.text for answer in piece.answers] == ["<call>weather</call><|im_end|>", "no<|im_end|>"]
