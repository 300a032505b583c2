"""Rewards of conversations: what a reward model gives to the last answer of each, in batches of like length.

Rows are encoded as in training, with the end of the answer and without a prompt for a further one; bos stands there once, where the
template or tokenizer puts it. A conversation longer than the window has no reward: cutting it would judge another answer. Padding
is masked, so that a reward does not depend on what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from fulgurite.data.encoding.conversations import TOO_LONG, ConversationEncoder, Omission
from fulgurite.data.encoding.prompts import is_chat
from fulgurite.data.encoding.templates import ChatRenderer
from fulgurite.data.records.conversation import Conversation, Turn
from fulgurite.models.sizes import check_vocabulary, positions_of, vocabulary_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["RewardScorer", "Scored"]

_CHUNK = 16  # batches that are sorted by length together


class Scored(NamedTuple):
    """A reward, None where the conversation is too long or has no answer, and the tokens of the answer."""

    reward: float | None
    length: int


class RewardScorer:
    """Scores conversations with a reward model.

    Args:
        model: a RewardModel, or a transformers model with one label; set to evaluation mode.
        tokenizer: with a chat template where chats are scored.
        max_length: tokens of prompt and answer at most; no more than the model has positions.
        batch_size: rows of a forward.
        whole: read the reward behind all that the chat template writes of a finished chat, as TRL and RewardBench do, instead of at
            the end of the last turn, where our own checkpoints are trained.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 2048,
        batch_size: int = 8,
        whole: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"RewardScorer: batch_size is {batch_size}; it must be at least 1")
        check_vocabulary("RewardScorer", vocabulary_of(model), tokenizer, "the reward model")
        positions = positions_of(model)
        max_length = max_length if positions is None else min(max_length, positions)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self._encoder = ConversationEncoder(tokenizer, max_length, supervise="last", too_long="drop", plain=True)
        self.max_length = max_length
        self._renderer = ChatRenderer(tokenizer) if whole and tokenizer.chat_template else None
        if not (whole and self.writes_behind_the_turn()):
            self._renderer = None
        self.omitted: dict[str, int] = {}

    @property
    def reads_behind_the_turn(self) -> bool:
        """Whether rewards of chats are read behind the end of the last turn."""
        return self._renderer is not None

    def writes_behind_the_turn(self) -> bool:
        """Whether the chat template of a finished chat goes on behind the end of its last turn."""
        if not self.tokenizer.chat_template:
            return False
        renderer = ChatRenderer(self.tokenizer)
        turns = (Turn("user", "a"), Turn("assistant", "b"))
        ((row, *_),) = self._encoder.encode([Conversation(turns, "a short chat", 1)])
        ids = self.tokenizer(renderer.chat(turns)[0], add_special_tokens=False, verbose=False)["input_ids"]
        return isinstance(row, Omission) or row.input_ids != list(ids)

    def score(self, conversations: Sequence[Conversation | Sequence[Turn]]) -> Iterator[list[Scored]]:
        """Rewards in the order given, a chunk of batches at a time.

        Args:
            conversations: each with its place, for messages, or its turns alone; the last turn is the answer (role assistant, or
                completion behind a bare prompt).
        """
        for at in range(0, len(conversations), _CHUNK * self.batch_size):
            yield self._chunk(conversations[at : at + _CHUNK * self.batch_size], at)

    def reading(self, conversation: Conversation) -> str | None:
        """What the model reads of a conversation, special tokens visible; None where it does not fit.

        Args:
            conversation: as `score` takes it.
        """
        ((first, *_),) = self._encoder.encode([conversation])
        if isinstance(first, Omission):
            return None
        return str(self.tokenizer.decode(self._whole(conversation, first.input_ids)))

    def _whole(self, conversation: Conversation, ids: list[int]) -> list[int]:
        """The ids that are read: those up to the end of the turn, or all that the template writes."""
        if self._renderer is None or not is_chat(conversation.turns):
            return ids
        text, _ = self._renderer.chat(conversation.turns, conversation.tools)
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @torch.no_grad()
    def _chunk(self, conversations: Sequence[Conversation | Sequence[Turn]], at: int) -> list[Scored]:
        given = [
            turns if isinstance(turns, Conversation) else Conversation(tuple(turns), "conversations", at + i + 1)
            for i, turns in enumerate(conversations)
        ]
        found: list[Scored] = [Scored(None, 0)] * len(given)
        rows: list[tuple[int, list[int], int]] = []
        for i, (first, *_) in enumerate(self._encoder.encode(given)):
            if isinstance(first, Omission):
                self.omitted[first.reason] = self.omitted.get(first.reason, 0) + 1
                continue
            ids = self._whole(given[i], first.input_ids)
            if len(ids) > self.max_length:
                self.omitted[TOO_LONG] = self.omitted.get(TOO_LONG, 0) + 1
            else:
                rows.append((i, ids, sum(first.supervised)))
        rows.sort(key=lambda row: len(row[1]))
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            for (i, _, length), reward in zip(batch, self._rewards([ids for _, ids, _ in batch]), strict=True):
                found[i] = Scored(reward, length)
        return found

    def _rewards(self, rows: Sequence[list[int]]) -> list[float]:
        device = next(self.model.parameters()).device
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), int(self.tokenizer.pad_token_id))  # type: ignore[arg-type]
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
        output: Any = self.model(input_ids=ids.to(device), attention_mask=mask.to(device))
        found: list[float] = output.logits.squeeze(-1).double().tolist()
        return found
