"""Training rows of scored answers: for supervised fine-tuning the best ones, and pairs of the best and the worst of a prompt.

Fine-tuning on the best of n is rejection sampling; pairs of a model's own answers, drawn anew after each training, are iterative
DPO. Rows of a chat are messages (schemas `messages` and `preference`); rows of a prompt that is continued are texts (schemas
`prompt_completion` and `preference`), to be trained with `--data.template none`, or `--data.as_chat false` for pairs.

Left out and counted: empty answers; answers that were cut off, because training would put an end behind them that they do not have;
answers without a reward; where a checker knows, wrong answers as targets; as pairs, prompts whose answers are equally good.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fulgurite.data.encoding.prompts import is_chat
from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.selection.candidates import Candidates, Found
from fulgurite.whole_files import write_text

__all__ = ["TrainingRows", "training_rows", "write_rows"]

Row = dict[str, Any]


@dataclass(frozen=True)
class TrainingRows:
    """Rows of both kinds.

    Attributes:
        sft: rows that SFTDataModule reads.
        pairs: rows that PreferenceDataModule reads, with the difference of the rewards as `margin`.
        left_out: answers and prompts without a row, by reason.
    """

    sft: list[Row]
    pairs: list[Row]
    left_out: dict[str, int]


def training_rows(candidates: Sequence[Candidates], rewards: Sequence[Found], top: int = 1) -> TrainingRows:
    """The rows of candidates.

    Where a checker has said which answers are right, only right ones are targets or preferred, only wrong ones are rejected, and
    the rewards decide among them.

    Args:
        candidates: answers of each prompt.
        rewards: of each answer.
        top: different answers of a prompt that are fine-tuned on, at most.

    Raises:
        ValueError: top below 1.
    """
    if top < 1:
        raise ValueError(f"training_rows: top={top}; give 1 or more")
    sft: list[Row] = []
    pairs: list[Row] = []
    left = Counter[str]()
    for own, given in zip(candidates, rewards, strict=True):
        usable = _usable(own, given, left)
        order = sorted(usable, key=lambda text: -usable[text].reward)  # stable: of equal rewards the first drawn
        good = [text for text in order if usable[text].right is not False]
        bad = [text for text in order if usable[text].right is not True]
        if usable and not good:
            left["prompts without a right answer"] += 1
        sft += [_target(own.prompt, text, usable[text].reward) for text in good[:top]]
        if len(usable) < 2:
            left["prompts without two different answers"] += 1
        elif good and bad and good[0] != bad[-1] and usable[good[0]].above(usable[bad[-1]]):
            pairs.append(_pair(own.prompt, good[0], bad[-1], usable[good[0]].reward, usable[bad[-1]].reward))
        elif good:
            left["prompts whose answers are all equally good, as pairs"] += 1
    return TrainingRows(sft, pairs, dict(left))


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Writes rows as lines of JSON.

    Args:
        file: where to; its folder is made.
        rows: at least one.

    Raises:
        ValueError: no row, which nothing could be trained on.
    """
    if not rows:
        raise ValueError(
            f"{file}: no row is left to write; see what was left out, draw more answers, or take other prompts"
        )
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))


class _Usable(NamedTuple):
    """An answer that may be trained on: its reward, and whether it is right; None where nobody knows."""

    reward: float
    right: bool | None

    def above(self, other: _Usable) -> bool:
        """Whether it is to be preferred: right to wrong, else by a higher reward."""
        return self.right is not None or self.reward > other.reward


def _usable(own: Candidates, rewards: Found, left: Counter[str]) -> Mapping[str, _Usable]:
    """The answers that may be trained on, each text once."""
    found: dict[str, _Usable] = {}
    for place, (text, reward) in enumerate(zip(own.texts, rewards, strict=True)):
        judged = own.correct[place] if own.correct else None
        if own.empty(place):
            left["empty answers"] += 1
        elif own.cut(place):
            left["answers that were cut off"] += 1
        elif reward is None or (own.correct and judged is None):
            left["answers without a reward or a verdict"] += 1
        elif text not in found:
            found[text] = _Usable(reward, None if judged is None else judged > 0)
    return found


def _plain(turns: Sequence[Turn]) -> list[Row]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _answer(text: str) -> Row:
    return {"role": "assistant", "content": text}


def _target(prompt: Sequence[Turn], text: str, reward: float) -> Row:
    if is_chat(prompt):
        return {"messages": [*_plain(prompt), _answer(text)], "reward": reward}
    return {"prompt": prompt[0].content, "completion": text, "reward": reward}


def _pair(prompt: Sequence[Turn], chosen: str, rejected: str, better: float, worse: float) -> Row:
    scores = {"margin": better - worse, "reward_chosen": better, "reward_rejected": worse}
    if is_chat(prompt):
        before = _plain(prompt)
        return {
            "prompt": before,
            "chosen": [*before, _answer(chosen)],
            "rejected": [*before, _answer(rejected)],
            **scores,
        }
    return {"prompt": prompt[0].content, "chosen": chosen, "rejected": rejected, **scores}
