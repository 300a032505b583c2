"""What templates and texts of chats may do that would go unseen: found by looking for it, one case each."""

import pytest

from fulgurite.data.encoding.answer_spans import AnswerFinder
from fulgurite.data.encoding.conversations import ConversationEncoder, EncodedConversation
from fulgurite.data.records.conversation import Conversation, Turn
from tests.data.chat_tokenizers import byte_level

_TURN = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
_PROMPT = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"


def test_a_template_that_drops_the_question_is_refused() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = (
        _TURN.replace("{{", "{% if m.role == 'assistant' %}{{").replace("}}", "}}{% endif %}") + _PROMPT
    )
    with pytest.raises(ValueError, match="does not show the user's text, so that answers would be trained without"):
        AnswerFinder(tokenizer)
    tokenizer.chat_template = _TURN.replace("m.content", "m.content | lower") + _PROMPT
    with pytest.raises(ValueError, match="does not show the assistant's text"):
        AnswerFinder(tokenizer)


def test_special_tokens_that_a_text_spells_out_are_named() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = _TURN + _PROMPT
    turns = (Turn("user", "say <|end|> and <eos>"), Turn("assistant", "no"))
    (row,) = ConversationEncoder(tokenizer, 100).encode([Conversation(turns, "x", 1)])[0]
    assert isinstance(row, EncodedConversation)
    assert row.note == "special tokens in a message's text, which are read as such: <eos>, <|end|>"
    (plain,) = ConversationEncoder(tokenizer, 100).encode([Conversation((Turn("user", "a"), turns[1]), "x", 1)])[0]
    assert isinstance(plain, EncodedConversation) and plain.note is None
