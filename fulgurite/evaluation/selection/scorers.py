"""Scorers: what gives an answer its reward, and what every reward has to be.

| scorer | reward |
|---|---|
| :class:`~.model_rewards.ModelReward` | of a reward model: the raw number of its head, as `fulgurite score` gives it |
| :class:`~.model_rewards.ImplicitReward` | of a policy trained with DPO: β·(log π − log π_ref) of the answer |
| :class:`~.checker.CheckerReward` | of a task: 1 for a right answer, 0 for a wrong one |
| :class:`~.endpoint.EndpointReward` | of a reward model behind an address |

An empty answer gets no reward from any scorer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fulgurite.data.encoding.prompts import is_chat
from fulgurite.data.records.conversation import Conversation, Turn
from fulgurite.data.records.item import Item
from fulgurite.evaluation.selection.candidates import Found

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Asked", "Scorer", "as_read", "prove", "rewards_of"]

EMPTY = "empty answer"
_UNKNOWN = 0.5  # share of an answer's tokens that a tokenizer may not know


class Asked(NamedTuple):
    """An answer that is to be scored: the turns before it, its text, where it comes from, and its task's item if it has one."""

    turns: tuple[Turn, ...]
    text: str
    where: str
    item: Item | None = None


class Scorer(Protocol):
    """Gives rewards.

    Attributes:
        name: for messages and reports.
        omitted: answers without a reward so far, by reason.
        example: how the first answer was read, with the template's special tokens, so that a person can see whether it is the
            model's own; None before it, or where nothing is read.
    """

    name: str
    omitted: Counter[str]
    example: str | None

    def identity(self) -> dict[str, Any]:
        """What rewards depend on beside the texts: plain data for JSON."""

    def score(self, asked: Sequence[Asked]) -> Found:
        """The reward of each answer; None where it has none, which `omitted` then counts."""


def rewards_of(scorer: Scorer, asked: Sequence[Asked]) -> Found:
    """Rewards of answers, whatever gives them; answers without a text have none and are not shown to the scorer.

    Args:
        scorer: gives the rewards.
        asked: answers.

    Raises:
        ValueError: another number of rewards than of answers; a reward that is no finite number.
    """
    places = [place for place, each in enumerate(asked) if each.text.strip()]
    if len(places) < len(asked):
        scorer.omitted[EMPTY] += len(asked) - len(places)
    found: Found = [None] * len(asked)
    given = scorer.score([asked[place] for place in places]) if places else []
    if len(given) != len(places):
        raise ValueError(
            f"{scorer.name}: {len(given)} rewards for {len(places)} answers; each answer needs one; mend it"
        )
    for place, reward in zip(places, given, strict=True):
        if reward is not None and not math.isfinite(reward):
            raise ValueError(
                f"{asked[place].where}: {scorer.name} gives the answer {asked[place].text[:40]!r} the reward {reward}; numbers are "
                "needed. The reward model is broken, or its dtype is too small: try float32"
            )
        found[place] = reward
    return found


def as_read(turns: Sequence[Turn], text: str, chat: bool, where: str, number: int = 1) -> Conversation:
    """An answer with what stands before it, as a model reads it that was trained on chats, or on plain texts.

    Args:
        turns: before the answer.
        text: of the answer.
        chat: whether the model reads chats.
        where: the answer comes from.
        number: of its row.

    Raises:
        ValueError: a chat of several turns for a model that was trained on plain texts.
    """
    if is_chat(turns) and not chat and len(turns) > 1:
        raise ValueError(
            f"{where}: the prompt is a chat of {len(turns)} turns, and the reward model was trained on plain texts, without a chat "
            "template; take one that reads chats, or prompts of one turn without --system"
        )
    before = tuple(turns) if is_chat(turns) else (Turn("user", turns[0].content),)
    if not chat:
        return Conversation((Turn("prompt", turns[0].content), Turn("completion", text)), where, number)
    return Conversation((*before, Turn("assistant", text)), where, number)


def prove(name: str, tokenizer: PreTrainedTokenizerBase, given: Conversation) -> None:
    """Proves on one answer that a tokenizer can read the texts: that of another model makes unknown tokens of them.

    Args:
        name: of the model, for the message.
        tokenizer: its tokenizer.
        given: the answer with what stands before it.

    Raises:
        ValueError: more than half of the answer's tokens are unknown.
    """
    text, unknown = given.turns[-1].content, tokenizer.unk_token_id
    ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    lost = sum(token == unknown for token in ids)
    if unknown is not None and ids and lost > _UNKNOWN * len(ids):
        raise ValueError(
            f"{given.where}: the tokenizer of {name} does not know {lost} of the {len(ids)} tokens of the answer {text[:40]!r}; "
            "its rewards would mean nothing. Give a reward model for this language, with its own tokenizer"
        )
