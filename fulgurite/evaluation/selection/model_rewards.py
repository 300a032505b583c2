"""Rewards by a model: of a reward model's head, or implied by a policy that was trained on preferences.

The implicit reward β·(log π − log π_ref) is summed over the answer's tokens and its end, as DPO (arXiv 2305.18290) defines it; β
changes no ranking. A mean per token can be asked for: it takes away that longer answers have more terms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import nn

from fulgurite.data.encoding.conversations import ConversationEncoder, EncodedConversation, Omission
from fulgurite.evaluation.reward_scoring import RewardScorer
from fulgurite.evaluation.selection.candidates import Found
from fulgurite.evaluation.selection.log_probs import summed_log_probs
from fulgurite.evaluation.selection.scorers import Asked, as_read, prove
from fulgurite.models.modes import evaluation_mode
from fulgurite.models.sizes import check_vocabulary, positions_of, vocabulary_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ImplicitReward", "ModelReward"]


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
        self.example: str | None = None

    def identity(self) -> dict[str, Any]:
        """Model, template, dtype and length."""
        return self._identity

    def score(self, asked: Sequence[Asked]) -> Found:
        """As Scorer.score."""
        given = [as_read(each.turns, each.text, self._chat, each.where) for each in asked]
        if given and self.example is None:
            prove(self.name, self._scorer.tokenizer, given[0])
            self.example = self._scorer.reading(given[0])
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
        self.example: str | None = None

    def identity(self) -> dict[str, Any]:
        """Policy, reference, template, β, and whether sums or means are taken."""
        return {**self._identity, "beta": self._beta, "mean": self._mean}

    def score(self, asked: Sequence[Asked]) -> Found:
        """As Scorer.score."""
        given = [as_read(each.turns, each.text, self._chat, each.where) for each in asked]
        found: Found = [None] * len(asked)
        if given and self.example is None:
            prove(self.name, self._encoder.tokenizer, given[0])
        rows: list[tuple[int, EncodedConversation]] = []
        for place, (first, *_) in enumerate(self._encoder.encode(given)):
            if isinstance(first, Omission):
                self.omitted[first.reason] += 1
            else:
                rows.append((place, first))
        if rows and self.example is None:
            self.example = str(self._encoder.tokenizer.decode(rows[0][1].input_ids))
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
