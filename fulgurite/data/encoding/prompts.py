"""What stands before a model that is to answer, as token ids: the same in training and in generation.

A chat is rendered by the tokenizer's template and tokenised in one piece without further special tokens, which is what
`tokenizer.apply_chat_template` does; bos stands there once, if the template writes it. A bare prompt has the special
tokens that the tokenizer puts before a text, and never those that it puts after one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fulgurite.data.encoding.templates import ChatRenderer
from fulgurite.data.records.conversation import CHAT_ROLES, Conversation, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TextEncoder", "as_chat", "encode_prompt", "encode_source", "is_chat"]

_ANCHORS = ("\n", ".", "a", "")


class TextEncoder:
    """Token ids of pieces of text that are joined afterwards.

    Args:
        tokenizer: slow or fast.

    Attributes:
        prefix: Ids of the special tokens that the tokenizer puts before a text, such as bos.
        end: Id of eos, or of sep where there is no eos.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if end is None:
            raise ValueError(
                "TextEncoder: the tokenizer has no eos and no sep token, so that no answer could end; set tokenizer.eos_token"
            )
        self.end: int = end
        bare = self.ids(["ab c"])[0]
        whole = list(tokenizer("ab c", verbose=False)["input_ids"])
        at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        self.prefix = whole[:at]
        # A sentencepiece tokenizer writes a space before a text that begins; in the middle of one it must not.
        self._anchors = _ANCHORS
        if self._after("\n", ["ab c"])[0] == bare:
            self._anchors = ("", *_ANCHORS[:-1])

    def begun(self, ids: Sequence[int]) -> list[int]:
        """A text's ids behind the tokenizer's prefix, which a text that was rendered by a template may bring itself."""
        return [*([] if self.prefix and list(ids[: len(self.prefix)]) == self.prefix else self.prefix), *ids]

    def ended(self, ids: Sequence[int]) -> list[int]:
        """Ids with the end token behind them, unless they end with it already."""
        return [*ids] if ids and ids[-1] == self.end else [*ids, self.end]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text alone, without special tokens."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [list(row) for row in encoded["input_ids"]]

    def continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as the continuation of another: no special tokens and no space that it does not have."""
        found: list[list[int] | None] = [None] * len(texts)
        for anchor in self._anchors:
            open_ = [i for i, ids in enumerate(found) if ids is None]
            for i, ids in zip(open_, self._after(anchor, [texts[i] for i in open_]), strict=True):
                found[i] = ids
        return [[] if ids is None else ids for ids in found]

    def _after(self, anchor: str, texts: Sequence[str]) -> list[list[int] | None]:
        """Ids of the texts behind `anchor`; None where the two share a token."""
        before = self.ids([anchor])[0] if anchor else []
        rows = self.ids([anchor + text for text in texts])
        return [row[len(before) :] if row[: len(before)] == before else None for row in rows]


def is_chat(turns: Sequence[Turn]) -> bool:
    """Whether the turns are those of a chat, over which a template is laid."""
    return bool(turns) and turns[0].role in CHAT_ROLES


def as_chat(conversation: Conversation) -> Conversation:
    """A prompt with its completion as a question with its answer; other conversations, and an empty prompt, as they are.

    Args:
        conversation: of any kind.
    """
    turns = conversation.turns
    if [turn.role for turn in turns] != ["prompt", "completion"] or not turns[0].content.strip():
        return conversation
    asked, answered = replace(turns[0], role="user"), replace(turns[1], role="assistant")
    return replace(conversation, turns=(asked, answered))


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Turn]) -> list[int]:
    """Exactly the token ids that `generate` puts before a causal model, and that training has before the answer.

    Args:
        tokenizer: with a chat template, if the turns are a chat's; see apply_template.
        turns: the history, its last turn the user's; or one turn "prompt" (or "text").

    Raises:
        ValueError: no turn, no template, one that refuses the roles, or one that would leave out what a message holds.
    """
    if not turns:
        raise ValueError("encode_prompt: no turn was given; at least one is needed")
    if not is_chat(turns):
        encoder = TextEncoder(tokenizer)
        return encoder.begun(encoder.ids([turns[0].content])[0])
    renderer = ChatRenderer(tokenizer)
    if unused := renderer.unused(turns):
        raise ValueError(
            f"encode_prompt: the messages hold {', '.join(unused)}, which the chat template never writes; take them out, or take a "
            "template that does"
        )
    text = renderer.prompt(turns)
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def encode_source(tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Turn]) -> list[int]:
    """The token ids that the encoder of an encoder-decoder reads.

    Without a chat template the turns are joined by newlines and the tokenizer adds its special tokens on both sides, as
    T5 and BART were trained; with one, they are those of `encode_prompt`.

    Args:
        tokenizer: of the encoder-decoder.
        turns: all turns before the answer.
    """
    if not turns:
        raise ValueError("encode_source: no turn was given; at least one is needed")
    if is_chat(turns) and tokenizer.chat_template:
        return encode_prompt(tokenizer, turns)
    return list(tokenizer("\n".join(turn.content for turn in turns), verbose=False)["input_ids"])
