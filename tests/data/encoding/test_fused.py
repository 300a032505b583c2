"""One answer behind several prompts: alignment, equality with each specialist's own training rows, room, vocabularies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from fulgurite.data.encoding.conversations import ConversationEncoder, Omission
from fulgurite.data.encoding.fused import NO_ROOM, FusedEncoder
from fulgurite.data.encoding.prompts import encode_prompt
from fulgurite.data.encoding.specialists import same_vocabulary
from fulgurite.data.encoding.templates import apply_template
from fulgurite.data.records.conversation import Conversation, Turn
from fulgurite.data.rows.encoded import IGNORE_INDEX
from fulgurite.data.rows.fused import FusedCollator, split_prompts
from fulgurite.data.sampling.windows import Batch
from tests.data.chat_tokenizers import byte_level, sentencepiece

TEMPLATES = ("ultrachat", "mistral", "wizardmath")


def tokenizers(make: Any = byte_level, names: tuple[str, ...] = TEMPLATES) -> list[Any]:
    return [apply_template(copy.deepcopy(make()), name) for name in names]


def chat(*texts: str, row: int = 1) -> Conversation:
    return Conversation(tuple(Turn(("user", "assistant")[i % 2], t) for i, t in enumerate(texts)), "rows.jsonl", row)


CHATS = [
    chat("What is 3 plus 4?", "It is 7."),
    chat("Hi", "Yes", "And a longer question here?", "def f(x):\n    return x"),
]


@pytest.mark.parametrize("make", [byte_level, sentencepiece], ids=["byte level", "sentencepiece"])
def test_each_view_is_what_that_specialist_alone_is_trained_on(make: Any) -> None:
    tokens = tokenizers(make)
    rows = [row for found in FusedEncoder(tokens, 256).encode(CHATS) for row in found]
    assert len(rows) == 3, "one row for every answer"
    for place, tokenizer in enumerate(tokens):
        own = ConversationEncoder(tokenizer, 256, "last").encode([CHATS[0], chat("Hi", "Yes"), CHATS[1]])
        for row, (alone,) in zip(rows, own, strict=True):
            prompt = split_prompts(torch.tensor(row.packed_prompts), 3)[place].tolist()
            assert prompt + row.answer == alone.input_ids
            assert [i >= len(prompt) for i in range(len(alone.input_ids))] == alone.supervised
    prompts = FusedEncoder(tokens, 256).prompts(CHATS[0].turns[:1])
    assert prompts == [encode_prompt(t, CHATS[0].turns[:1]) for t in tokens]
    assert len({len(prompt) for prompt in prompts}) == 3


def test_the_batch_points_at_the_states_that_predict_the_same_tokens() -> None:
    tokens = tokenizers()
    encoded = [row for found in FusedEncoder(tokens, 256).encode(CHATS) for row in found]
    rows = [
        {"input_ids": torch.tensor(r.packed_prompts), "labels": torch.tensor(r.answer), "tag": torch.tensor(i)}
        for i, r in enumerate(encoded)
    ]
    collator = FusedCollator(3, 0, 8)
    batch = collator((rows, Batch((0, 1, 2), 0, 99)))
    assert batch["targets"].tolist() == [token for row in encoded for token in row.answer]
    assert batch["row"].tolist() == [i for i, row in enumerate(encoded) for _ in row.answer]
    assert batch["tag"].tolist() == [0, 1, 2] and int(batch["tokens_in_window"]) == 99
    for place in range(3):
        ids, mask = batch["input_ids"][place], batch["attention_mask"][place]
        assert ids.shape[1] % 8 == 0
        flat = ids.flatten()
        begun, previous = None, None
        for source, target, row in zip(
            batch["sources"][place].tolist(), batch["targets"].tolist(), batch["row"].tolist(), strict=True
        ):
            assert source // ids.shape[1] == row and mask.flatten()[source]
            # Within an answer the token at the source is the one predicted before it.
            if begun == row:
                assert flat[source] == previous
            begun, previous = row, target
        assert int(mask.sum()) == sum(len(split_prompts(r["input_ids"], 3)[place]) + len(r["labels"]) - 1 for r in rows)
        labels = collator.labels(batch, place)
        assert labels[labels != IGNORE_INDEX].tolist() == batch["targets"].tolist()


def test_rows_that_fill_a_batch_up_have_no_target() -> None:
    row = FusedEncoder(tokenizers(), 256).encode(CHATS[:1])[0][0]
    rows = [{"input_ids": torch.tensor(row.packed_prompts), "labels": torch.tensor(row.answer)}] * 2
    batch = FusedCollator(3, 0)((rows, Batch((0, 0), 1, None)))
    assert len(batch["targets"]) == len(row.answer) and batch["input_ids"][0].shape[0] == 2
    empty = FusedCollator(3, 0)((rows[:1], Batch((0,), 1, None)))
    assert empty["targets"].shape == (0,) and empty["sources"].shape == (3, 0)


def test_answers_begin_alike_where_templates_begin_them_differently() -> None:
    tokens = tokenizers(names=("ultrachat", "zephyr"))  # a space before the answer, and none
    encoder = FusedEncoder(tokens, 256)
    row = encoder.encode(CHATS[:1])[0][0]
    assert tokens[0].decode(row.answer) == "It is 7." + tokens[0].eos_token
    first, second = (tokens[0].decode(p) for p in split_prompts(torch.tensor(row.packed_prompts), 2))
    assert first.endswith("Assistant: ") and second.endswith("<|assistant|>\n")
    assert [list(p) for p in encoder.prompts(CHATS[0].turns[:1])] == [
        p.tolist() for p in split_prompts(torch.tensor(row.packed_prompts), 2)
    ]


def test_a_prompt_that_leaves_no_room_is_counted_or_named() -> None:
    tokens = tokenizers()
    longest = max(len(p) for p in FusedEncoder(tokens, 999).prompts(CHATS[0].turns[:1]))
    whole = FusedEncoder(tokens, 999).encode(CHATS[:1])[0][0].full_length
    assert FusedEncoder(tokens, longest).encode(CHATS[:1])[0] == [Omission("rows.jsonl, line 1", NO_ROOM)]
    assert FusedEncoder(tokens, longest, too_long="cut").encode(CHATS[:1])[0] == [
        Omission("rows.jsonl, line 1", NO_ROOM)
    ]
    dropped = FusedEncoder(tokens, whole - 1).encode(CHATS[:1])[0][0]
    assert isinstance(dropped, Omission) and dropped.reason == "longer than max_length"
    cut = FusedEncoder(tokens, longest + 2, too_long="cut").encode(CHATS[:1])[0][0]
    assert len(cut.answer) == 2 and cut.note
    with pytest.raises(
        ValueError,
        match=rf"rows.jsonl, line 1: the prompt has {longest} tokens in the template of specialist 2, which leaves no room",
    ):
        FusedEncoder(tokens, longest, too_long="error").encode(CHATS[:1])


def test_plain_prompts_become_chats_and_texts_are_left_out() -> None:
    """Generation lays each specialist's template over a plain prompt; so does training."""
    plain = Conversation((Turn("prompt", "1 + 1 ="), Turn("completion", "2")), "a", 1)
    asked = Conversation((Turn("user", "1 + 1 ="), Turn("assistant", "2")), "a", 1)
    text = Conversation((Turn("text", "only text"),), "a", 2)
    (row,), (left_out,), (same,) = FusedEncoder(tokenizers(), 99).encode([plain, text, asked])
    assert (row.packed_prompts, row.answer) == (same.packed_prompts, same.answer)
    assert left_out.reason == "text without a question"


def test_vocabularies_that_differ_name_the_first_token() -> None:
    one, two = byte_level(), copy.deepcopy(byte_level())
    assert same_vocabulary([one, two], ["a", "b"]) == len(one)
    two.add_tokens(["▁extra"])
    assert same_vocabulary([one, two], ["a", "b"]) == len(one), "tokens at the end are no obstacle"
    other = sentencepiece()
    with pytest.raises(
        ValueError, match=r"token \d+ is '.*' in 'a' and '.*' in 'b'; only specialists of one tokenizer"
    ):
        same_vocabulary([one, other], ["a", "b"])
