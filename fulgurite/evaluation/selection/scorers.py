"""Scorers: what gives an answer its reward.

| scorer | reward |
|---|---|
| `ModelReward` | of a reward model: the raw number of its head, as `fulgurite score` gives it |
| `ImplicitReward` | of a policy trained with DPO: β·(log π − log π_ref), summed over the answer's tokens and its end |
| `CheckerReward` | of a task: 1 for a right answer, 0 for a wrong one |

The implicit reward is summed, as DPO (arXiv 2305.18290) defines it; β changes no ranking. A mean per token can be asked for: it
takes away that longer answers have more terms. An empty answer gets no reward from any scorer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import nn

from fulgurite.data.encoding.conversations import ConversationEncoder, EncodedConversation, Omission
from fulgurite.data.encoding.prompts import is_chat
from fulgurite.data.records.conversation import Conversation, Turn
from fulgurite.evaluation.judging.verdicts import How, Verdict
from fulgurite.evaluation.reward_scoring import RewardScorer
from fulgurite.evaluation.selection.candidates import Found
from fulgurite.evaluation.selection.log_probs import summed_log_probs
from fulgurite.evaluation.tasks.task import Item, Task
from fulgurite.models.modes import evaluation_mode
from fulgurite.models.sizes import check_vocabulary, positions_of, vocabulary_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Asked", "CheckerReward", "ImplicitReward", "ModelReward", "Scorer", "rewards_of"]

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
    """

    name: str
    omitted: Counter[str]

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


class ModelReward:
    """A reward model.

    Args:
        scorer: of the model with its tokenizer.
        chat: whether it reads chats; otherwise prompt and answer are joined as they are.
        name: of the model.
        identity: what its rewards depend on.
    """

    def __init__(self, scorer: RewardScorer, chat: bool, name: str, identity: dict[str, Any]) -> None:
        self._scorer, self._chat, self.name, self._identity = scorer, chat, name, identity
        self.omitted: Counter[str] = Counter()
        self._proof = _Proof(name, scorer.tokenizer, scorer.max_length)

    def identity(self) -> dict[str, Any]:
        """Model, template, dtype and length."""
        return self._identity

    def score(self, asked: Sequence[Asked]) -> Found:
        """As Scorer.score."""
        given = [as_read(each.turns, each.text, self._chat, each.where) for each in asked]
        self._proof.once(given)
        before = Counter(self._scorer.omitted)
        found = [scored.reward for chunk in self._scorer.score(given) for scored in chunk]
        self.omitted += Counter(self._scorer.omitted) - before
        return found


class ImplicitReward:
    """The reward that a policy trained with DPO implies.

    Args:
        policy: the trained model.
        reference: a context in which the reference model can be asked; it may be the policy with its adapter switched off. None
            for a training without a reference, such as SimPO's: the reward is then β·log π.
        tokenizer: of both, with the chat template that the policy was trained with.
        chat: whether it reads chats.
        name: of the policy.
        identity: what its rewards depend on.
        beta: β of the training.
        mean: per token of the answer in place of their sum.
        max_length: tokens of prompt and answer at most; a longer one has no reward.
        batch_size: rows of a forward.
    """

    def __init__(
        self,
        policy: nn.Module,
        reference: Callable[[], AbstractContextManager[nn.Module]] | None,
        tokenizer: PreTrainedTokenizerBase,
        chat: bool,
        name: str,
        identity: dict[str, Any],
        beta: float = 0.1,
        mean: bool = False,
        max_length: int = 2048,
        batch_size: int = 8,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"ImplicitReward: batch_size is {batch_size}; it must be at least 1")
        check_vocabulary("ImplicitReward", vocabulary_of(policy), tokenizer, name)
        positions = positions_of(policy)
        max_length = max_length if positions is None else min(max_length, positions)
        self._policy, self._reference, self._chat, self.name = policy, reference, chat, name
        self._identity, self._beta, self._mean, self._batch_size = identity, beta, mean, batch_size
        self._encoder = ConversationEncoder(tokenizer, max_length, supervise="last", too_long="drop", plain=True)
        self.omitted: Counter[str] = Counter()
        self._proof = _Proof(name, tokenizer, max_length)

    def identity(self) -> dict[str, Any]:
        """Policy, reference, template, β, and whether sums or means are taken."""
        return {**self._identity, "beta": self._beta, "mean": self._mean}

    def score(self, asked: Sequence[Asked]) -> Found:
        """As Scorer.score."""
        given = [as_read(each.turns, each.text, self._chat, each.where) for each in asked]
        self._proof.once(given)
        found: Found = [None] * len(asked)
        rows: list[tuple[int, EncodedConversation]] = []
        for place, (first, *_) in enumerate(self._encoder.encode(given)):
            if isinstance(first, Omission):
                self.omitted[first.reason] += 1
            else:
                rows.append((place, first))
        rows.sort(key=lambda row: len(row[1].input_ids))
        for at in range(0, len(rows), self._batch_size):
            batch = rows[at : at + self._batch_size]
            for (place, _), reward in zip(batch, self._rewards([row for _, row in batch]), strict=True):
                found[place] = reward
        return found

    def _rewards(self, rows: Sequence[EncodedConversation]) -> list[float]:
        with evaluation_mode(self._policy):
            ours, tokens = summed_log_probs(self._policy, rows)
            lead = ours.double()
            if self._reference is not None:
                with self._reference() as reference, evaluation_mode(reference):
                    lead = lead - summed_log_probs(reference, rows)[0].double()
        lead = lead / tokens.double() if self._mean else lead
        found: list[float] = (self._beta * lead).tolist()
        return found


class CheckerReward:
    """A task's checker: 1 for a right answer, 0 for a wrong one, and for a text in which no answer stands.

    Args:
        task: one of `fulgurite evaluate` whose answers are judged.
        how: programs are run.
    """

    def __init__(self, task: Task, how: How | None = None) -> None:
        if task.judge is None:
            raise ValueError(
                f"{task.name} compares log-likelihoods of choices and judges no answers; take a task of answers"
            )
        self._task, self._judge, self._how = task, task.judge, how or How()
        self._judge.check(self._how)
        self.name = f"task:{task.name}"
        self.omitted: Counter[str] = Counter()

    def identity(self) -> dict[str, Any]:
        """Task, version and judge."""
        return {"task": self._task.name, "version": self._task.version, "judge": self._judge.identity(self._how)}

    def score(self, asked: Sequence[Asked]) -> Found:
        """As Scorer.score."""
        found: Found = [0.0] * len(asked)
        pairs: list[tuple[Item, str]] = []
        places: list[int] = []
        for place, each in enumerate(asked):
            if each.item is None:
                raise ValueError(
                    f"{each.where}: {self.name} needs the row's right answer, and no item of the task was given"
                )
            answer = self._task.answer(each.text, each.item)
            if answer is not None:
                pairs.append((each.item, answer))
                places.append(place)

        def done(number: int, verdict: Verdict) -> None:
            found[places[number]] = verdict.correct
            if verdict.correct is None:
                self.omitted[f"not judged ({verdict.status})"] += 1

        if pairs:
            self._judge.judge(pairs, done, self._how)
        return found


class _Proof:
    """Proves on the first answer that a tokenizer can read the texts: that of another model makes unknown tokens of them."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._name, self._tokenizer, self._max_length, self._done = name, tokenizer, max_length, False

    def once(self, given: Sequence[Conversation]) -> None:
        """Looks at the first conversation of the first call."""
        unknown = self._tokenizer.unk_token_id
        if self._done or not given:
            return
        self._done = True
        text = given[0].turns[-1].content
        ids = list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        lost = sum(token == unknown for token in ids)
        if unknown is not None and ids and lost > _UNKNOWN * len(ids):
            raise ValueError(
                f"{given[0].where}: the tokenizer of {self._name} does not know {lost} of the {len(ids)} tokens of the answer "
                f"{text[:40]!r}; its rewards would mean nothing. Give a reward model for this language, with its own tokenizer"
            )
