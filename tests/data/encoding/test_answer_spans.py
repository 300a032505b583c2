"""How a turn ends and what a generation prompt opens, template by template; what a message holds beside its text."""

import json
from typing import Any

import pytest

from fulgurite.data.encoding.answer_spans import AnswerFinder, end_tokens, end_with_the_turn
from fulgurite.data.encoding.conversations import ConversationEncoder, EncodedConversation, Omission
from fulgurite.data.encoding.prompts import encode_prompt
from fulgurite.data.encoding.seq2seq import encode_pairs
from fulgurite.data.encoding.texts import encode_documents, encode_examples
from fulgurite.data.records.conversation import Conversation, Turn, checked
from fulgurite.data.records.examples import Examples
from fulgurite.data.records.findings import Finding
from tests.data.chat_tokenizers import HABITS, byte_level, sentencepiece

# Command R7B: two special tokens end an answer.
TWO_ENDS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|assistant|><|im_start|>' + m['content'] + '<|im_end|><|end|>' }}"
    "{% else %}{{ '<|user|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><|im_start|>' }}{% endif %}"
)
# GLM-4: nothing ends an answer but the mark of the next turn.
NEXT_MARK = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# An end of text behind the last turn only.
LAST_END = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ '<|end|>' }}{% endif %}"
)
TOOLS = (
    "{% if tools %}{{ '<|system|>' + (tools | tojson) + '<|end|>' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}{{ m['content'] or '' }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}{{ '<call>' + c.function.name + '</call>' }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CALL = json.dumps({"tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {}}}]})


def with_template(template: str) -> Any:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    return tokenizer


def chat(*contents: str, **more: Any) -> Conversation:
    turns = tuple(Turn(("user", "assistant")[i % 2], content) for i, content in enumerate(contents))
    return Conversation(turns, "chats.jsonl", 1, **more)


def supervised(tokenizer: Any, conversation: Conversation, length: int = 1000, **more: Any) -> list[list[str]]:
    """For each row its supervised stretches as text."""
    found = []
    for row in ConversationEncoder(tokenizer, length, **more).encode([conversation])[0]:
        assert isinstance(row, EncodedConversation), row
        texts, open_ = [], False
        for i, trained in zip(row.input_ids, row.supervised, strict=True):
            if trained and not open_:
                texts.append([])
            if trained:
                texts[-1].append(i)
            open_ = trained
        found.append([tokenizer.decode(ids) for ids in texts])
    return found


@pytest.mark.parametrize(
    ("template", "spans", "stops"),
    [
        (TWO_ENDS, ["Four.<|im_end|><|end|>", "Sure.<|im_end|><|end|>"], ["<eos>", "<|im_end|>", "<|end|>"]),
        (NEXT_MARK, ["Four.<|user|>", "Sure.<eos>"], ["<eos>", "<|user|>"]),
        (LAST_END, ["Four.<|im_end|>", "Sure.<|im_end|>"], ["<eos>", "<|im_end|>"]),
    ],
)
def test_every_token_that_ends_a_turn_is_trained_and_stops_generation(
    template: str, spans: list[str], stops: list[str]
) -> None:
    tokenizer = with_template(template)
    assert supervised(tokenizer, chat("2 + 2?", "Four.", "Sure?", "Sure.")) == [spans]
    assert end_tokens(tokenizer) == tokenizer.convert_tokens_to_ids(stops)


def test_a_chat_cut_behind_the_mark_of_the_next_turn_gets_no_second_end() -> None:
    tokenizer = with_template(NEXT_MARK)
    whole = ConversationEncoder(tokenizer, 1000).encode([chat("a", "b", "c", "d")])[0][0]
    assert isinstance(whole, EncodedConversation)
    (cut,) = supervised(tokenizer, chat("a", "b", "c", "d"), len(whole.input_ids) - 1)
    assert cut == ["b<|user|>"]


def test_the_marks_of_a_template_agree_with_what_is_trained() -> None:
    """transformers' own assistant mask, where a template marks both ends of an answer."""
    marked = TWO_ENDS.replace(
        "{{ '<|assistant|><|im_start|>' + m['content'] + '<|im_end|><|end|>' }}",
        "{{ '<|assistant|><|im_start|>' }}{% generation %}{{ m['content'] + '<|im_end|><|end|>' }}{% endgeneration %}",
    )
    tokenizer = with_template(marked)
    conversation = chat("2 + 2?", "Four.", "Sure?", "Sure.")
    (row,) = ConversationEncoder(tokenizer, 1000).encode([conversation])[0]
    stock = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in conversation.turns],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert isinstance(row, EncodedConversation)
    assert row.input_ids == stock["input_ids"]
    assert row.supervised == [bool(bit) for bit in stock["assistant_masks"]]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Four.", "<|assistant|>\nFour.<eos>"),
        ("<think>\nhm</think>Four.", "<|assistant|>\n<think>\nhm</think>Four.<eos>"),
        ("<think>hm</think>Four.", "<|assistant|>\n<think>\nhm</think>Four.<eos>"),
        ("hm</think>Four.", "<|assistant|>\n<think>\nhm</think>Four.<eos>"),
    ],
)
def test_no_answer_stays_inside_an_opened_thought(answer: str, text: str) -> None:
    tokenizer = with_template(HABITS["thinking"])
    (row,) = ConversationEncoder(tokenizer, 1000).encode([chat("a", answer)])[0]
    assert isinstance(row, EncodedConversation)
    assert tokenizer.decode(row.input_ids).endswith(text)
    told = "answer without the reasoning that the generation prompt opens: trained as the template's finished turn"
    assert (row.note == told) is (answer == "Four.")


def test_an_answer_that_is_not_to_be_trained_on_stands_in_the_context() -> None:
    tokenizer = with_template(TWO_ENDS)
    turns = (Turn("user", "a"), Turn("assistant", "bad", train=False), Turn("user", "c"), Turn("assistant", "good"))
    conversation = Conversation(turns, "chats.jsonl", 7)
    (row,) = ConversationEncoder(tokenizer, 1000).encode([conversation])[0]
    assert isinstance(row, EncodedConversation) and "bad<|im_end|>" in tokenizer.decode(row.input_ids)
    assert supervised(tokenizer, conversation) == [["good<|im_end|><|end|>"]]
    # Nothing left to train on: left out, with a reason of its own.
    for supervise, given in (("assistant", turns[:2]), ("last", (*turns, Turn("user", "e"), turns[1]))):
        (left,) = ConversationEncoder(tokenizer, 1000, supervise).encode([Conversation(given, "x", 1)])[0]  # type: ignore[arg-type]
        assert isinstance(left, Omission) and left.reason.startswith("no answer is to be trained on")
    with pytest.raises(ValueError, match=r"chats.jsonl.*message 2 .*supervise='all'"):
        ConversationEncoder(tokenizer, 1000, "all").encode([conversation])


def test_what_a_template_writes_of_a_message_is_trained_and_what_it_drops_leaves_the_row_out() -> None:
    thought = json.dumps({"reasoning_content": "hm"})
    turns = (
        Turn("user", "rain?"),
        Turn("assistant", "", extra=CALL),
        Turn("tool", "no"),
        Turn("assistant", "No.", extra=thought),
    )
    conversation = Conversation(turns, "tools.jsonl", 3, tools=json.dumps([{"name": "weather"}]))
    assert list(checked(conversation)) == [conversation]
    tokenizer = with_template(TOOLS)
    assert supervised(tokenizer, conversation) == [["<call>weather</call><|im_end|>", "<think>hm</think>No.<|im_end|>"]]
    (row,) = ConversationEncoder(tokenizer, 1000).encode([conversation])[0]
    assert isinstance(row, EncodedConversation) and '"weather"}]<|end|>' in tokenizer.decode(row.input_ids)
    plain = with_template(TWO_ENDS)
    (left,) = ConversationEncoder(plain, 1000).encode([conversation])[0]
    assert isinstance(left, Omission)
    assert left.reason == "the chat template never writes tools, tool_calls, reasoning_content"
    with pytest.raises(ValueError, match="tool_calls, which the chat template never writes"):
        encode_prompt(plain, turns[:3])


def test_an_encoder_decoder_leaves_out_what_its_texts_cannot_hold() -> None:
    tokenizer = byte_level()
    turns = (Turn("user", "rain?"), Turn("assistant", "No.", extra=CALL))
    (left,) = encode_pairs(tokenizer, [Conversation(turns, "x", 1)], 100)[0]
    assert isinstance(left, Omission) and left.reason.endswith("tool_calls")
    untrained = (Turn("user", "a"), Turn("assistant", "b", train=False), Turn("user", "c"), Turn("assistant", "d"))
    assert len(encode_pairs(tokenizer, [Conversation(untrained, "x", 1)], 100)[0]) == 1


def test_keys_of_messages_that_nothing_reads_are_named() -> None:
    turns = (Turn("user", "a", extra='{"id": 3}'), Turn("assistant", "b", extra='{"name": "x", "id": 4}'))
    for template, told in (
        (TWO_ENDS, "id, name"),
        (TWO_ENDS.replace("'<|user|>'", "'<|user|>' + (m.name or '')"), "id"),
    ):
        (row,) = ConversationEncoder(with_template(template), 1000).encode([Conversation(turns, "x", 1)])[0]
        assert isinstance(row, EncodedConversation)
        assert row.note == f"keys of messages that the chat template never writes: {told}"


def test_an_encoder_decoders_answer_ends_once() -> None:
    """T5's tokenizer ends every text; one that a template has rendered brings its own end."""
    from tokenizers import processors

    tokenizer = sentencepiece()
    ends = [("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=ends)
    for answer in ("film", "film</s>"):
        turns = (Turn("prompt", "the"), Turn("completion", answer))
        (pair,) = encode_pairs(tokenizer, [Conversation(turns, "x", 1)], 20)[0]
        assert not isinstance(pair, Omission)
        assert pair.target_ids.count(tokenizer.eos_token_id) == 1 and pair.target_ids[-1] == tokenizer.eos_token_id


def test_tools_results_follow_calls_only() -> None:
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("tool", "c"), Turn("assistant", "d"))
    (found,) = checked(Conversation(turns, "x", 1))
    assert isinstance(found, Finding) and found.reason == "roles out of order"


def test_a_text_that_a_template_has_rendered_gets_no_second_bos_and_eos() -> None:
    tokenizer = sentencepiece()
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    rows = ConversationEncoder(tokenizer, 50).encode(
        [
            Conversation((Turn("text", "<s>the film</s>"),), "x", 1),
            Conversation((Turn("prompt", "<s>the"), Turn("completion", " film</s>")), "x", 2),
        ]
    )
    for (row,) in rows:
        assert isinstance(row, EncodedConversation)
        assert row.input_ids.count(bos) == row.input_ids.count(eos) == 1
        assert (row.input_ids[0], row.input_ids[-1]) == (bos, eos)
    assert rows[1][0].supervised.count(True) == len(tokenizer("film", add_special_tokens=False)["input_ids"]) + 1  # type: ignore[union-attr]
    assert encode_prompt(tokenizer, [Turn("prompt", "<s>the")]) == tokenizer("the")["input_ids"]
    stream = encode_documents(tokenizer, ["<s>the film</s>", "the film"], 50).tensors["input_ids"].tolist()
    assert stream == 2 * stream[: len(stream) // 2] and stream.count(bos) == stream.count(eos) == 2
    encoded = encode_examples(tokenizer, Examples(["<s>the film", "the film"], None, None, "x"), 50)
    assert encoded.tensors["input_ids"].tolist() == 2 * tokenizer("the film")["input_ids"]


def test_the_finder_tells_how_a_turn_ends() -> None:
    assert AnswerFinder(with_template(TWO_ENDS)).end == "<|im_end|><|end|>"
    finder = AnswerFinder(with_template(NEXT_MARK))
    assert (finder.ends_turn, finder.end, finder.next_mark) == (False, "", "<|user|>")


def test_a_plain_prompt_is_trained_as_generation_asks_it() -> None:
    from fulgurite.data.encoding.templates import apply_template

    pair = Conversation((Turn("prompt", "2 + 2 ="), Turn("completion", "4")), "x", 1)
    tokenizer = apply_template(byte_level(), "chatml")
    asked = chat("2 + 2 =", "4")
    ((row,), (same,)) = ConversationEncoder(tokenizer, 100).encode([pair, asked])
    assert isinstance(row, EncodedConversation) and row == same
    assert row.input_ids[: row.supervised.index(True)] == encode_prompt(tokenizer, [Turn("user", "2 + 2 =")])
    for left, plain in ((apply_template(byte_level(), "none"), False), (tokenizer, True)):
        ((row,),) = ConversationEncoder(left, 100, plain=plain).encode([pair])
        assert isinstance(row, EncodedConversation)
        assert row.note == "prompt and completion as plain text, without a chat template"
        assert tokenizer.decode(row.input_ids) == "2 + 2 =4<eos>"
    with pytest.raises(ValueError, match="these turns are a chat, and the tokenizer has no chat template"):
        ConversationEncoder(apply_template(byte_level(), "none"), 100).encode([asked])
    ((target,),) = encode_pairs(tokenizer, [pair], 100)
    assert target.source_ids == encode_prompt(tokenizer, [Turn("user", "2 + 2 =")])  # type: ignore[union-attr]


@pytest.mark.parametrize("template", ["ultrachat", "zephyr", "chatml", "mistral", "alpaca", "wizardmath", *HABITS])
def test_a_finished_chat_can_end_where_rewards_are_read(template: str) -> None:
    """Everybody's `apply_chat_template(messages)` then gives the tokens of training."""
    from fulgurite.data.encoding.templates import apply_template

    tokenizer = byte_level()
    if template in HABITS:
        tokenizer.chat_template = HABITS[template]
    else:
        apply_template(tokenizer, template)
    conversation = chat("2 + 2?", "Four.", "Sure?", "Sure.")
    messages = [{"role": turn.role, "content": turn.content} for turn in conversation.turns]
    asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    end_with_the_turn(tokenizer)
    assert tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True) == asked
    (row,) = ConversationEncoder(tokenizer, 1000, "last").encode([conversation])[0]
    assert isinstance(row, EncodedConversation)
    stock = tokenizer.apply_chat_template(messages, return_dict=False)
    assert tokenizer.decode(stock) == tokenizer.decode(row.input_ids)
    assert stock[-1] == row.input_ids[-1] in end_tokens(tokenizer)
