"""Drawn answers as packs of trees: each prompt is computed once for all its answers; and the figures of each token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fulgurite.data.trees.growing import grow_answers
from fulgurite.data.trees.rows import TreeCollator
from fulgurite.lightning_modules.rollouts.drawing import Group

__all__ = ["Trees", "trees_of"]


class Trees:
    """The trees of some groups, with figures for each token of each group's answers, in the order of the answers.

    Args:
        groups: each with at least one answer.
        pad_token_id: of padded rows.
        packing: lay trees one behind the other into one row; False makes each answer a padded row of its own.

    Attributes:
        lengths: tokens of each answer, (C,) int64.
        group: of each answer, (C,) int64.
        answers: how many each tree has.
        places: each tree's number among those of all processes; see :class:`fulgurite.lightning_modules.rollouts.drawing.Group`.
    """

    def __init__(self, groups: Sequence[Group], pad_token_id: int, packing: bool = True) -> None:
        self._rows = grow_answers([(g.ids, [a.tokens for a in g.answers]) for g in groups], trees=packing)
        self._collator = TreeCollator(pad_token_id, packing=packing)
        self.lengths = torch.tensor([len(a.tokens) for g in groups for a in g.answers], dtype=torch.int64)
        self.group = torch.tensor([i for i, g in enumerate(groups) for _ in g.answers], dtype=torch.int64)
        self.answers, self.places = [len(g.answers) for g in groups], [g.place for g in groups]
        self._tokens = [sum(len(a.tokens) for a in g.answers) for g in groups]
        self._figures: dict[str, list[Tensor]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def computed(self) -> int:
        """Tokens of all trees: what one forward over them computes."""
        return int(self._rows.lengths.sum())

    def packs(self, order: Sequence[int], budget: int) -> list[list[int]]:
        """Trees in packs of at most ``budget`` tokens; a larger tree is a pack of its own.

        Args:
            order: which trees, in their order.
            budget: tokens of a pack.
        """
        found: list[list[int]] = []
        room, sizes = 0, self._rows.lengths.tolist()
        for tree in order:
            if not found or sizes[tree] > room:
                found.append([])
                room = budget
            found[-1].append(tree)
            room -= sizes[tree]
        return found

    def put(self, name: str, values: Tensor) -> None:
        """Keep a figure of each token.

        Args:
            name: its key in batches.
            values: of all tokens in the order of the answers, (K,).
        """
        self._figures[name] = list(values.split(self._tokens)) if self._tokens else []

    def get(self, name: str) -> Tensor:
        """A figure of all tokens, (K,)."""
        found = self._figures[name]
        return torch.cat(found) if found else torch.zeros(0)

    def by_tree(self) -> list[dict[str, Tensor]]:
        """All figures of each tree's tokens, (tokens of the tree,) each."""
        return [{name: each[tree] for name, each in self._figures.items()} for tree in range(len(self))]

    def batch(self, pack: Sequence[int]) -> dict[str, Tensor]:
        """The tensors of a pack, on the CPU, with all the figures that were put.

        Args:
            pack: numbers of trees.
        """
        batch = self._collator.rows([self._rows[tree] for tree in pack])
        return {**batch, **{name: torch.cat([each[i] for i in pack]) for name, each in self._figures.items()}}


def trees_of(groups: Sequence[Group], pad_token_id: int, packing: bool, mask_truncated: bool) -> tuple[Trees, Tensor]:
    """The trees of groups with "sampler" and "counted", and their answers' rewards (C,).

    Args:
        groups: of answers with a reward.
        pad_token_id: of padded rows.
        packing: see :class:`Trees`.
        mask_truncated: whether the tokens of cut answers are not counted.
    """
    trees = Trees(groups, pad_token_id, packing)
    answers = [answer for group in groups for answer in group.answers]
    trees.put("sampler", torch.tensor([p for answer in answers for p in answer.log_probs]))
    counted = torch.tensor([not (mask_truncated and answer.cut) for answer in answers], dtype=torch.bool)
    trees.put("counted", counted.repeat_interleave(trees.lengths))
    return trees, torch.tensor([answer.reward for answer in answers])
