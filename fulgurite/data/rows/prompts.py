"""Prompts as rows: token ids, the turns that they are made of, and what an answer is judged by.

They lie in memory: a prompt is short, and what is trained on is drawn anew in each step.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fulgurite.data.records.conversation import Turn
from fulgurite.data.records.findings import Tally
from fulgurite.data.sampling.windows import Batch

__all__ = ["EncodedPrompt", "PromptCollator", "PromptRows"]


@dataclass(frozen=True)
class EncodedPrompt:
    """One prompt.

    Attributes:
        ids: what stands before the model.
        turns: what they were made of, as JSON: pairs of role and text.
        reference: the row that the prompt is from, as JSON.
        answer: a known answer; "" for none.
    """

    ids: tuple[int, ...]
    turns: str
    reference: str
    answer: str = ""

    @staticmethod
    def written(turns: Sequence[Turn]) -> str:
        """Turns as JSON."""
        return json.dumps([[turn.role, turn.content] for turn in turns], ensure_ascii=False)


class PromptRows(Dataset[EncodedPrompt]):
    """Prompts of a split.

    Args:
        prompts: the prompts.
        tally: what was read and left out.
    """

    def __init__(self, prompts: Sequence[EncodedPrompt], tally: Tally) -> None:
        self.prompts, self.tally = list(prompts), tally

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> EncodedPrompt:
        return self.prompts[index]

    @property
    def lengths(self) -> Tensor:
        """Tokens of each prompt, (rows,) int64."""
        return torch.tensor([len(prompt.ids) for prompt in self.prompts])

    def targets(self) -> Tensor:
        """One for each prompt, (rows,) int64."""
        return torch.ones(len(self.prompts), dtype=torch.int64)

    def take(self, indices: Sequence[int]) -> PromptRows:
        """The prompts at `indices`, in that order."""
        return PromptRows([self.prompts[i] for i in indices], self.tally)


class PromptCollator:
    """A batch of prompts: `prompt_ids`, lists of token ids; `turns` and `references`, JSON each."""

    def rows(self, rows: Sequence[EncodedPrompt]) -> dict[str, Any]:
        """The batch of these prompts."""
        return {
            "prompt_ids": [list(row.ids) for row in rows],
            "turns": [row.turns for row in rows],
            "references": [row.reference for row in rows],
        }

    def __call__(self, rows_and_batch: tuple[Sequence[EncodedPrompt], Batch]) -> dict[str, Any]:
        """The batch of one `Batch`, without the prompts that only fill it up."""
        rows, batch = rows_and_batch
        return self.rows(rows[: len(rows) - batch.padding])
