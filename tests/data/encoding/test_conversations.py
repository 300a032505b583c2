"""Masks: before every supervised answer stands what `generate` would put there, and the answer ends with its turn's end."""

import random
from pathlib import Path
from typing import Any

import pytest

from fulgurite.data.encoding.conversations import ConversationEncoder, EncodedConversation, Omission, encode_prompt
from fulgurite.data.encoding.seq2seq import EncodedPair, encode_pairs
from fulgurite.data.encoding.templates import TEMPLATES, ChatRenderer, apply_template
from fulgurite.data.records.conversation import Conversation, Turn
from tests.data.chat_tokenizers import (
    BUILT,
    HABITS,
    REAL,
    STABLE,
    byte_level,
    playground,
    real,
    sentencepiece,
    unopened,
)

PIECES = (
    "Yes.",
    " ",
    "  ",
    "\n",
    "\n\n",
    "the film",
    "é",
    "你好",
    "🙂",
    "```python\nx = 1\n```",
    "a:b",
    "</think>",
    "1 + 2 = 3",
    "\tq",
    "(x)",
    "User:",
    "[INST]",
)
NAMES = (*TEMPLATES, *HABITS)


def chat(*contents: str, system: str | None = None) -> Conversation:
    turns = [] if system is None else [Turn("system", system)]
    turns += [Turn("assistant" if i % 2 else "user", text) for i, text in enumerate(contents)]
    return Conversation(tuple(turns), "rows.jsonl", 7)


def draw(seed: int, count: int, thoughts: bool = True) -> list[Conversation]:
    dice = random.Random(seed)
    pieces = [p for p in PIECES if thoughts or p != "</think>"]

    def text() -> str:
        words = dice.choices(pieces, k=dice.randint(1, 6))
        return "".join(words) if dice.random() < 0.7 else "x".join(words)

    def answer() -> str:
        return text() + dice.choice(["ok", "z.", "}"]) + text()

    found = []
    for _ in range(count):
        contents = [answer() if i % 2 else text() + "?" for i in range(2 * dice.randint(1, 4))]
        found.append(chat(*contents, system=dice.choice([None, None, "", "Be short."])))
    return found


def templated(tokenizer: Any, name: str) -> Any:
    if name in HABITS:
        tokenizer.chat_template = HABITS[name]
        return tokenizer
    return apply_template(tokenizer, name)


def spans(row: EncodedConversation) -> list[tuple[int, int]]:
    edges = [
        i for i, (a, b) in enumerate(zip([False, *row.supervised], [*row.supervised, False], strict=True)) if a != b
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))


def check_round_trip(tokenizer: Any, conversations: list[Conversation], lossless: bool) -> int:
    """Every answer is supervised in one place, behind encode_prompt's ids and in its own text. Returns the number of rows."""
    rows_in_all = 0
    ends = ConversationEncoder(tokenizer, 10_000)
    for conversation, rows in zip(conversations, ends.encode(conversations), strict=True):
        waiting = {}
        for i, turn in enumerate(conversation.turns):
            if turn.role == "assistant":
                history = [{"role": t.role, "content": t.content} for t in conversation.turns[:i]]
                ids = tokenizer.apply_chat_template(history, add_generation_prompt=True, return_dict=False)
                assert ids == encode_prompt(tokenizer, conversation.turns[:i])
                if "<think>" not in turn.content:  # a thought that only the generation prompt opens is not trained open
                    ids = unopened(tokenizer, conversation.turns[:i])
                waiting[i] = ids
        assert waiting
        for row in rows:
            assert isinstance(row, EncodedConversation)
            rows_in_all += 1
            assert row.full_length == len(row.input_ids) == len(row.supervised)
            assert row.supervised[-1]
            for start, end in spans(row):
                prompt, span = row.input_ids[:start], row.input_ids[start:end]
                turn = next((i for i, ids in waiting.items() if ids == prompt), None)
                assert turn is not None, f"{tokenizer.decode(prompt)!r} is no prompt"
                del waiting[turn]
                if lossless:
                    before = tokenizer.decode(prompt)
                    text = tokenizer.decode(prompt + span)
                    assert text.startswith(before)
                    check_answer(tokenizer, conversation.turns[: turn + 1], text[len(before) :])
                assert tokenizer.convert_tokens_to_ids("<|im_start|>") not in span
        assert not waiting, "an answer that nobody supervises"
    return rows_in_all


def check_answer(tokenizer: Any, turns: tuple[Turn, ...], text: str) -> None:
    """The supervised text is the whole answer and an end mark, with nothing of another turn."""
    end = next((e for e in ("<|im_end|>", "<|end|>", str(tokenizer.eos_token)) if e in text), "")
    body = text.removesuffix(tokenizer.eos_token or "").rstrip(" ") if not end else text[: text.rindex(end)]
    content = turns[-1].content.split("</think>")[-1].strip()
    assert "".join(content.split()) in "".join(body.split())
    extra = "".join(body.split()).replace("".join(turns[-1].content.split()), "")
    assert extra in ("", "<think></think>", "<think>", "<|im_end|>", "<|end|>")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", BUILT)
def test_round_trip(kind: str, name: str) -> None:
    tokenizer = BUILT[kind]()
    if kind == "playground" and name == "chatml":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer = templated(tokenizer, name)
    conversations = draw(len(name), 25, thoughts=name not in ("rewriting", "thinking"))
    rows = check_round_trip(tokenizer, conversations, lossless=True)
    if kind == "sentencepiece" and (name in STABLE or name in ("ultrachat", "mistral")):
        assert rows == len(conversations)


@pytest.mark.real_data
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", REAL)
def test_round_trip_of_published_tokenizers(real_data: Path, kind: str, name: str) -> None:
    tokenizer = real(real_data, kind)
    if tokenizer.bos_token is None:
        tokenizer.bos_token = tokenizer.eos_token
    conversations = draw(len(name) + 1, 10, thoughts=name not in ("rewriting", "thinking"))
    check_round_trip(templated(tokenizer, name), conversations, lossless=kind in ("gpt2", "aidreams260K"))


def only(encoder: ConversationEncoder, *conversations: Conversation) -> EncodedConversation:
    rows = encoder.encode(conversations)
    assert len(rows) == 1 and len(rows[0]) == 1
    assert isinstance(rows[0][0], EncodedConversation)
    return rows[0][0]


def shown(tokenizer: Any, row: EncodedConversation) -> list[str]:
    return [tokenizer.decode(row.input_ids[start:end]) for start, end in spans(row)]


def test_an_end_token_that_is_also_the_padding_token_is_supervised_where_it_ends_an_answer_only() -> None:
    tokenizer = apply_template(byte_level(), "zephyr")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == tokenizer.bos_token_id
    row = only(ConversationEncoder(tokenizer, 500), chat("what is <eos>?", "It ends a text: <eos> is", "Oh", "Yes"))
    assert shown(tokenizer, row) == ["It ends a text: <eos> is<eos>", "Yes<eos>"]
    ends = [flag for i, flag in zip(row.input_ids, row.supervised, strict=True) if i == tokenizer.eos_token_id]
    assert ends == [False, False, True, True, False, True]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_last_supervised_token_is_the_end_of_the_turn(name: str) -> None:
    tokenizer = apply_template(byte_level(), name)
    row = only(ConversationEncoder(tokenizer, 500), chat("Hi", "Yes", "b", "No"))
    mark = {"chatml": "<|im_end|>", "playground": "<|end|>"}.get(name, "<eos>")
    assert [text[-len(mark) :] for text in shown(tokenizer, row)] == [mark, mark]
    assert [text[: -len(mark)].lstrip(" ") for text in shown(tokenizer, row)] == ["Yes", "No"]
    assert row.supervised[-1], "a newline after the end mark is of no use"


def test_a_template_without_an_end_gets_eos_after_the_last_answer() -> None:
    tokenizer = templated(byte_level(), "endless")
    row = only(ConversationEncoder(tokenizer, 500), chat("Hi", "Yes", "b", "No"))
    assert shown(tokenizer, row) == [" Yes", " No<eos>"]


def test_supervise() -> None:
    tokenizer = apply_template(byte_level(), "chatml")
    conversation = chat("Hi", "Yes", "b", "No", "and?", system="Be short.")
    assert shown(tokenizer, only(ConversationEncoder(tokenizer, 500, "last"), conversation)) == ["No<|im_end|>"]
    every = only(ConversationEncoder(tokenizer, 500, "all"), conversation)
    messages = [{"role": t.role, "content": t.content} for t in conversation.turns]
    assert every.input_ids == tokenizer.apply_chat_template(messages, return_dict=False)
    assert all(every.supervised)
    both = only(ConversationEncoder(tokenizer, 500), conversation)
    assert shown(tokenizer, both) == ["Yes<|im_end|>", "No<|im_end|>"]
    assert both.note is None


def test_marks_of_the_template_decide_which_answers_are_supervised() -> None:
    tokenizer = byte_level()
    body = "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    plain = "{{ m['content'] + '<|im_end|>' }}"
    loop = "{{% for m in messages %}}{{{{ '<|im_start|>' + m['role'] + '\n' }}}}{0}{{% endfor %}}"
    head = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    choice = (
        "{% if m['role'] == 'assistant' and 'skip' not in m['content'] %}" + body + "{% else %}" + plain + "{% endif %}"
    )
    tokenizer.chat_template = loop.format(choice) + head
    encoder = ConversationEncoder(tokenizer, 500)
    assert shown(tokenizer, only(encoder, chat("a", "one", "b", "skip", "c", "two"))) == [
        "one<|im_end|>",
        "two<|im_end|>",
    ]
    with pytest.raises(ValueError, match=r"rows.jsonl, line 7: .*leave every answer out"):
        encoder.encode([chat("a", "skip")])
    # Marks that end before the end of the turn, as many templates have them.
    tokenizer.chat_template = (
        loop.format(
            choice.replace(" + '<|im_end|>' }}{% endg", " }}{% endg").replace(
                "{% endgeneration %}", "{% endgeneration %}{{ '<|im_end|>' }}"
            )
        )
        + head
    )
    assert shown(tokenizer, only(ConversationEncoder(tokenizer, 500), chat("a", "one"))) == ["one<|im_end|>"]
    tokenizer.chat_template = (
        loop.format(choice).replace("{% generation %}{{ m['content']", "{{ m['content']}}{% generation %}{{ ''") + head
    )
    with pytest.raises(ValueError, match="leave the assistant's text out"):
        ConversationEncoder(tokenizer, 500).encode([chat("a", "one")])


def test_a_thought_before_the_marks_is_not_supervised() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if '|' in m['content'] %}"
        "{{ m['content'].split('|')[0] + '|' }}{% endif %}{% if m['role'] == 'assistant' %}"
        "{% generation %}{{ m['content'].split('|')[-1] + '<|im_end|>' }}{% endgeneration %}{% else %}"
        "{{ m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    row = only(ConversationEncoder(tokenizer, 500), chat("a", "long thought|one"))
    assert shown(tokenizer, row) == ["one<|im_end|>"]


def test_rewritten_history_gives_one_row_for_each_answer() -> None:
    tokenizer = templated(byte_level(), "rewriting")
    rows = ConversationEncoder(tokenizer, 500).encode(
        [chat("a", "<think>t</think>\n\none", "b", "<think>u</think>\n\ntwo")]
    )[0]
    assert [shown(tokenizer, row) for row in rows if isinstance(row, EncodedConversation)] == [
        ["<think>t</think>\n\none<|im_end|>"],
        ["<think>u</think>\n\ntwo<|im_end|>"],
    ]
    assert all(isinstance(row, EncodedConversation) and row.note == "an answer with a row of its own" for row in rows)


def test_an_opened_thought_of_the_generation_prompt_is_not_written_twice() -> None:
    tokenizer = templated(byte_level(), "thinking")
    row = only(ConversationEncoder(tokenizer, 500), chat("a", "<think>\nso</think>one"))
    assert tokenizer.decode(row.input_ids).count("<think>") == 1
    assert shown(tokenizer, row) == ["so</think>one<eos>"]


def test_a_token_across_the_edge_is_parted_and_told() -> None:
    tokenizer = templated(byte_level(), "straddling")
    found = [
        row for rows in ConversationEncoder(tokenizer, 500).encode([chat("Hi", "the film", "b", "of")]) for row in rows
    ]
    assert all(isinstance(row, EncodedConversation) for row in found)
    notes = [row.note for row in found if isinstance(row, EncodedConversation)]
    assert "prompt and answer share a token: tokenised apart" in notes
    assert sorted(text for row in found for text in shown(tokenizer, row)) == ["of<eos>", "the film<eos>"]  # type: ignore[arg-type]


def test_prompt_and_completion() -> None:
    for tokenizer in (byte_level(), sentencepiece()):
        before = tokenizer("2 + 2 =")["input_ids"]
        row = only(ConversationEncoder(tokenizer, 50), pair("2 + 2 =", " 4"))
        assert row.input_ids[: len(before)] == before == encode_prompt(tokenizer, [Turn("prompt", "2 + 2 =")])
        assert spans(row) == [(len(before), len(row.input_ids))]
        assert row.input_ids[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(row.input_ids[:-1], skip_special_tokens=True)
        assert text == "2 + 2 = 4"
        glued = only(ConversationEncoder(tokenizer, 50), pair("fil", "m"))
        assert tokenizer.decode(glued.input_ids[:-1], skip_special_tokens=True) == "film"


def pair(prompt: str, completion: str) -> Conversation:
    return Conversation((Turn("prompt", prompt), Turn("completion", completion)), "pairs.csv", 3)


def test_text() -> None:
    tokenizer = sentencepiece()
    document = Conversation((Turn("text", "one two three"),), "text.txt", 1)
    row = only(ConversationEncoder(tokenizer, 50), document)
    assert row.input_ids == [*tokenizer("one two three")["input_ids"], tokenizer.eos_token_id]
    assert all(row.supervised)
    parts = ConversationEncoder(tokenizer, 4).encode([document])[0]
    whole = [i for part in parts if isinstance(part, EncodedConversation) for i in part.input_ids]
    assert whole == row.input_ids[: len(whole)] and len(row.input_ids) - len(whole) <= 1
    assert {part.note for part in parts if isinstance(part, EncodedConversation)} == {"text split into several rows"}


class TestTooLong:
    conversation = chat("Hi", "Yes", "b", "No and no and no")

    def encoder(self, length: int, too_long: Any, template: str = "chatml") -> ConversationEncoder:
        return ConversationEncoder(templated(byte_level(), template), length, too_long=too_long)

    def lengths(self, template: str = "chatml") -> tuple[int, int]:
        one = only(self.encoder(500, "drop", template), Conversation(self.conversation.turns[:2], "rows.jsonl", 7))
        return len(one.input_ids), len(only(self.encoder(500, "drop", template), self.conversation).input_ids)

    def test_drop_keeps_whole_turns(self) -> None:
        one, both = self.lengths()
        for length in (one, one + 1, both - 1):
            row = only(self.encoder(length, "drop"), self.conversation)
            assert len(row.input_ids) == one and row.full_length == both
            assert row.note == "last turns left out: longer than max_length"
            assert row.supervised[-1]
        assert only(self.encoder(both, "drop"), self.conversation).note is None
        assert self.encoder(one - 1, "drop").encode([self.conversation]) == [
            [Omission("rows.jsonl, line 7", "longer than max_length")]
        ]

    def test_drop_leaves_room_for_the_end_of_a_template_that_has_none(self) -> None:
        one, both = self.lengths("endless")
        tokenizer = templated(byte_level(), "endless")
        row = only(self.encoder(both - 1, "drop", "endless"), self.conversation)
        assert len(row.input_ids) <= one and row.input_ids[-1] == tokenizer.eos_token_id and row.supervised[-1]
        assert shown(tokenizer, row) == [" Yes<eos>"]
        assert isinstance(self.encoder(one - 1, "drop", "endless").encode([self.conversation])[0][0], Omission)

    def test_drop_with_every_token_supervised(self) -> None:
        one, _ = self.lengths()
        row = only(ConversationEncoder(templated(byte_level(), "chatml"), one, "all"), self.conversation)
        assert len(row.input_ids) == one and all(row.supervised)

    def test_cut(self) -> None:
        _, both = self.lengths()
        row = only(self.encoder(both - 2, "cut"), self.conversation)
        assert len(row.input_ids) == both - 2 and row.full_length == both
        assert row.note == "end cut off: longer than max_length"
        first = spans(only(self.encoder(500, "drop"), self.conversation))[0][0]
        assert isinstance(self.encoder(first, "cut").encode([self.conversation])[0][0], Omission)
        assert any(only(self.encoder(first + 1, "cut"), self.conversation).supervised)

    def test_error(self) -> None:
        _, both = self.lengths()
        with pytest.raises(ValueError, match=rf"rows.jsonl, line 7: {both} tokens; max_length is {both - 1}"):
            self.encoder(both - 1, "error").encode([self.conversation])


def test_bad_input_names_file_and_row() -> None:
    tokenizer = apply_template(byte_level(), "chatml")
    encoder = ConversationEncoder(tokenizer, 100)
    assert encoder.encode([chat("only a question")]) == [[Omission("rows.jsonl, line 7", "no assistant turn")]]
    with pytest.raises(ValueError, match=r"rows.jsonl, line 7: the roles are \['completion'\]"):
        encoder.encode([Conversation((Turn("completion", "x"),), "rows.jsonl", 7)])
    tokenizer.chat_template = (
        "{{ raise_exception('no system role') if messages[0]['role'] == 'system' }}" + tokenizer.chat_template
    )
    with pytest.raises(
        ValueError, match=r"rows.jsonl, line 7: the chat template refuses these turns \(no system role\)"
    ):
        ConversationEncoder(tokenizer, 100).encode([chat("a", "b"), chat("a", "b", system="s")])
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    with pytest.raises(ValueError, match="does not show the assistant's text"):
        ConversationEncoder(tokenizer, 100).encode([chat("a", "b")])
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        ConversationEncoder(tokenizer, 100).encode([chat("a", "b")])
    with pytest.raises(ValueError, match="supervise='first'; allowed are 'assistant', 'last', 'all'"):
        ConversationEncoder(tokenizer, 100, "first")  # type: ignore[arg-type]


def test_pairs_of_an_encoder_decoder() -> None:
    tokenizer = sentencepiece()
    end = tokenizer.eos_token_id
    first, second = encode_pairs(tokenizer, [chat("Hi", "Yes", "b", "No")], 50)[0]
    assert isinstance(first, EncodedPair) and isinstance(second, EncodedPair)
    assert (
        first.source_ids == tokenizer("Hi")["input_ids"] and second.source_ids == tokenizer("Hi\nYes\nb")["input_ids"]
    )
    assert first.target_ids == [*tokenizer("Yes")["input_ids"], end]
    assert encode_pairs(tokenizer, [chat("Hi", "Yes", "b", "No")], 50, supervise="last")[0] == [second]
    assert encode_pairs(tokenizer, [pair("2 +", "2")], 50)[0][0].source_ids == tokenizer("2 +")["input_ids"]  # type: ignore[union-attr]
    assert encode_pairs(tokenizer, [chat("Hi")], 50)[0] == [Omission("rows.jsonl, line 7", "no assistant turn")]
    apply_template(tokenizer, "zephyr")
    told = encode_pairs(tokenizer, [chat("Hi", "Yes")], 50)[0][0]
    assert isinstance(told, EncodedPair) and told.source_ids == encode_prompt(tokenizer, [Turn("user", "Hi")])
    long = chat("the film " * 30, "Yes")
    assert encode_pairs(tokenizer, [long], 20)[0] == [Omission("rows.jsonl, line 7", "longer than max_length")]
    cut = encode_pairs(tokenizer, [long], 20, too_long="cut")[0][0]
    assert (
        isinstance(cut, EncodedPair) and len(cut.source_ids) == 20 and cut.note == "end cut off: longer than max_length"
    )
    with pytest.raises(ValueError, match=r"rows.jsonl, line 7: \d+ tokens of source"):
        encode_pairs(tokenizer, [long], 20, too_long="error")
    with pytest.raises(ValueError, match="line 7: the answer has no turn before it"):
        encode_pairs(tokenizer, [Conversation((Turn("assistant", "x"),), "rows.jsonl", 7)], 20)


def test_order_and_mixture_are_kept() -> None:
    tokenizer = playground()
    mixture = [
        pair("a", "b"),
        chat("Hi", "Yes"),
        Conversation((Turn("text", "t"),), "t", 1),
        chat("q"),
        chat("b", "No"),
    ]
    together = ConversationEncoder(tokenizer, 100).encode(mixture)
    assert together == [ConversationEncoder(tokenizer, 100).encode([one])[0] for one in mixture]


def test_a_slow_tokenizer_gives_the_same_rows() -> None:
    tokenizer = apply_template(sentencepiece(), "zephyr")
    conversations = draw(3, 10)
    fast = ConversationEncoder(tokenizer, 10_000)
    without_offsets = ConversationEncoder(tokenizer, 10_000)
    without_offsets._barriers = {}
    assert fast._barriers
    assert fast.encode(conversations) == without_offsets.encode(conversations)


def test_the_prompt_is_generations() -> None:
    tokenizer = playground()
    turns = [Turn("user", "Hi")]
    assert tokenizer.decode(encode_prompt(tokenizer, turns)) == ChatRenderer(tokenizer).prompt(turns)
