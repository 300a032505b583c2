"""Drawing answers from the policy in this process: a prompt is read once for all its answers, each of which has its own seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from fulgurite.data.records.conversation import Turn
from fulgurite.generation.in_process.backend import TransformersBackend
from fulgurite.generation.protocol import Request, SamplingSettings, by_request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Answer", "Group", "PolicySampler", "seed_of_step"]


@dataclass
class Answer:
    """One answer.

    Attributes:
        tokens: what was drawn, the end token included.
        log_probs: of each token under the distribution that it was drawn from.
        text: without the end token.
        cut: whether it ended at the longest allowed length and not with an end token.
        rewards: what each reward said of it, by name; NaN where it had no opinion.
        reward: their weighted sum, less a penalty for answers that were cut; NaN where one of them is.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    text: str
    cut: bool
    rewards: dict[str, float] = field(default_factory=dict)
    reward: float = float("nan")


@dataclass
class Group:
    """The answers to one prompt.

    Attributes:
        ids: the prompt's token ids.
        turns: what they were made of.
        reference: the row that the prompt is from, for checkers.
        answers: in the order of their seeds.
        place: number of the prompt among those of all processes in this step.
    """

    ids: Sequence[int]
    turns: tuple[Turn, ...]
    reference: dict[str, Any]
    answers: list[Answer]
    place: int = 0


class PolicySampler(TransformersBackend):
    """Answers of the network as it stands.

    Its records do not name the weights: these change with every step, and hashing them would take as long as drawing.

    Args:
        network: the policy.
        tokenizer: its tokenizer.
        batch_size: answers that are written at once.
    """

    def __init__(self, network: nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        super().__init__(network, tokenizer, batch_size)

    def identity(self) -> dict[str, Any]:
        """What of the network does not change while it is trained."""
        dtype = str(next(self.model.parameters()).dtype)
        return {"backend": self.kind, "model": "the policy in training", "weights": "", "adapter": None, "dtype": dtype}

    def draw(
        self, batch: Mapping[str, Any], n: int, settings: SamplingSettings, keys: Sequence[str] | None = None
    ) -> list[Group]:
        """``n`` answers to each prompt of a batch of :class:`fulgurite.data.rows.prompts.PromptCollator`, in its order.

        Args:
            batch: prompt_ids, turns, references.
            n: answers to each prompt.
            settings: how tokens are drawn; the seeds are made of its seed, the prompt, its key and the answer's number.
            keys: what tells the draws of equal prompts apart; None counts equal prompts of the batch.

        Raises:
            ValueError: a prompt that leaves no room in the model's window.
        """
        prompts = batch["prompt_ids"]
        named = zip(prompts, keys or [""] * len(prompts), strict=True)
        drawn = by_request(self.sample([Request(tuple(ids), key) for ids, key in named], n, settings))
        groups = []
        for ids, turns, reference, samples in zip(prompts, batch["turns"], batch["references"], drawn, strict=True):
            answers = [Answer(s.token_ids or (), s.log_probs or (), s.text, s.finish == "length") for s in samples]
            spoken = tuple(Turn(role, content) for role, content in json.loads(turns))
            groups.append(Group(ids, spoken, json.loads(reference), answers))
        return groups


def seed_of_step(seed: int, step: int) -> int:
    """The seed of a step's draws, below 2⁶³: a run that is resumed draws what the uninterrupted one would have drawn.

    Args:
        seed: of the run.
        step: optimizer steps before it.
    """
    digest = hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
