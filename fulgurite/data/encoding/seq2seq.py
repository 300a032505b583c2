"""Conversations to source and target ids of an encoder-decoder.

The source holds all turns before an answer (see encode_source), the target the answer with the tokenizer's own special
tokens and eos at its end. All of the target is supervised.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from fulgurite.data.encoding.conversations import NO_ANSWER, TOO_LONG, UNRENDERED, UNTRAINED, Omission
from fulgurite.data.encoding.prompts import TextEncoder, as_chat, encode_source, is_chat
from fulgurite.data.encoding.templates import ChatRenderer
from fulgurite.data.records.conversation import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EncodedPair", "encode_pairs"]

_CUT = "end cut off: longer than max_length"


class EncodedPair(NamedTuple):
    """One row: ids that the encoder reads, ids to be predicted, tokens of both before cutting, and what was done, if anything."""

    source_ids: list[int]
    target_ids: list[int]
    full_length: int
    note: str | None


def encode_pairs(
    tokenizer: "PreTrainedTokenizerBase",
    conversations: Sequence[Conversation],
    max_length: int,
    max_target_length: int | None = None,
    supervise: Literal["assistant", "last"] = "assistant",
    too_long: Literal["drop", "error", "cut"] = "drop",
) -> list[list[EncodedPair | Omission]]:
    """The rows of each conversation: one for every answer, or for the last one.

    Args:
        tokenizer: of the encoder-decoder.
        conversations: chats, or prompts with completions.
        max_length: tokens of a source at most.
        max_target_length: tokens of a target at most; None takes max_length.
        supervise: "assistant" for a row for every answer, "last" for one row.
        too_long: "drop" omits such a row, "error" raises, "cut" takes the end off source and target.

    Raises:
        ValueError: other options; an answer without a turn before it; a row too long where that is an error.
    """
    allowed = {"supervise": (supervise, ("assistant", "last")), "too_long": (too_long, ("drop", "error", "cut"))}
    for name, (value, values) in allowed.items():
        if value not in values:
            raise ValueError(f"encode_pairs: {name}={value!r}; allowed are {', '.join(map(repr, values))}; choose one")
    limits = (max_length, max_length if max_target_length is None else max_target_length)
    if min(limits) < 2:
        raise ValueError(
            f"encode_pairs: the limits are {limits}; source and target need at least 2 tokens each; raise them"
        )
    end = TextEncoder(tokenizer).end
    found: list[list[EncodedPair | Omission]] = []
    for conversation in map(as_chat, conversations) if tokenizer.chat_template else conversations:
        turns = conversation.turns
        places = [i for i, turn in enumerate(turns) if turn.role in ("assistant", "completion")]
        if places and places[0] == 0:
            raise ValueError(
                f"{conversation.where}: the answer has no turn before it, so that the encoder has nothing to read; correct the row"
            )
        rows: list[EncodedPair | Omission] = []
        if reason := _refused(tokenizer, conversation, places[-1:] if supervise == "last" else places):
            found.append([Omission(conversation.where, reason)])
            continue
        for i in places[-1:] if supervise == "last" else places:
            if not turns[i].train:
                continue
            source = encode_source(tokenizer, turns[:i])
            target = list(tokenizer(text_target=turns[i].content, verbose=False)["input_ids"])
            while target[-2:] == [end, end]:  # a text that a template has rendered brings its own end
                target.pop()
            if target[-1:] != [end]:
                target.append(end)
            rows.append(_fit(conversation.where, source, target, limits, too_long))
        found.append(rows or [Omission(conversation.where, NO_ANSWER)])
    return found


def _refused(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation, places: Sequence[int]) -> str | None:
    """Why a conversation is left out: targets are texts, and sources what the template writes, or the texts alone."""
    turns = conversation.turns
    if places and not any(turns[i].train for i in places):
        return UNTRAINED
    chat = is_chat(turns) and tokenizer.chat_template
    unused = (
        ChatRenderer(tokenizer).unused(turns, conversation.tools) if chat else [k for t in turns for k in t.extra_keys]
    )
    unused += [key for i in places for key in turns[i].extra_keys] + (
        ["tools"] if conversation.tools is not None else []
    )
    return UNRENDERED + ", ".join(dict.fromkeys(unused)) if unused else None


def _fit(
    where: str, source: list[int], target: list[int], limits: tuple[int, int], too_long: str
) -> EncodedPair | Omission:
    full = len(source) + len(target)
    if len(source) <= limits[0] and len(target) <= limits[1]:
        return EncodedPair(source, target, full, None)
    if too_long == "error":
        raise ValueError(
            f"{where}: {len(source)} tokens of source and {len(target)} of target; allowed are {limits[0]} and {limits[1]}; "
            "raise them, shorten the row, or choose too_long='drop' or 'cut'"
        )
    if too_long == "drop":
        return Omission(where, TOO_LONG)
    # Encoders are trained on texts with their end token; a cut source keeps it.
    if len(source) > limits[0]:
        source = [*source[: limits[0] - 1], source[-1]]
    return EncodedPair(source, target[: limits[1]], full, _CUT)
