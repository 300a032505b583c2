"""What the studies ask: distinct questions of the playground's arithmetic, and how many of them a network answers rightly."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fulgurite.data.encoding.prompts import encode_prompt
from fulgurite.data.playground.draw import Draw
from fulgurite.data.playground.rows.conversations import drawn_task, wrong_answer
from fulgurite.data.playground.rows.prompts import prompt_rows
from fulgurite.data.records.conversation import Turn
from fulgurite.data.rows.prompts import EncodedPrompt, PromptCollator
from fulgurite.generation.protocol import SamplingSettings
from fulgurite.lightning_modules.rollouts.drawing import Group, PolicySampler
from fulgurite.lightning_modules.rollouts.rewards import Rewards
from fulgurite.whole_files import write_text

__all__ = ["AT_ONCE", "Examiner", "distinct", "pairs", "write_lines"]

Row = dict[str, Any]
AT_ONCE = 256  # answers that are written at once
KINDS = ("sum", "difference", "product", "steps", "compare", "sequence", "story")


def distinct(split: str, count: int) -> list[Row]:
    """The first ``count`` questions of a split, in GSM8K's columns, none of them twice.

    Args:
        split: train, validation or test; a question belongs to one alone.
        count: how many; fewer where the split does not have them.
    """
    found: dict[str, Row] = {}
    for row in prompt_rows("gsm8k", split, count=8 * count):
        found.setdefault(row["question"], row)
        if len(found) == count:
            break
    return list(found.values())


def pairs(count: int) -> list[Row]:
    """Right against wrong answers to questions of the training split, as PreferenceDataModule reads them.

    Args:
        count: how many.
    """
    rows = []
    for index in range(count):
        draw = Draw(f"rl study|pairs|{index}", "train")
        task = drawn_task(draw, "maths", KINDS)
        asked = [{"role": "user", "content": task.prompt}]
        sides = {
            side: [*asked, {"role": "assistant", "content": text}]
            for side, text in (("chosen", task.answer), ("rejected", wrong_answer(draw, task)))
        }
        rows.append({"prompt": asked, **sides})
    return rows


def write_lines(path: Path, rows: Iterable[Row]) -> str:
    """Write rows as lines of JSON; the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


class Examiner:
    """Draws answers of any network to questions and lets the checker of GSM8K judge them.

    Args:
        tokenizer: with the template that questions are asked in.
        longest: tokens of an answer.
        at_once: answers that are written at once.
    """

    def __init__(self, tokenizer: Any, longest: int, at_once: int = AT_ONCE) -> None:
        self.tokenizer, self.longest, self.at_once = tokenizer, longest, at_once
        self._checker = Rewards(["gsm8k"])

    def batch(self, rows: Sequence[Row]) -> Row:
        """Questions as RLModule gets them."""
        prompts = []
        for row in rows:
            turns = (Turn("user", row["question"]),)
            ids = tuple(encode_prompt(self.tokenizer, turns))
            prompts.append(EncodedPrompt(ids, EncodedPrompt.written(turns), json.dumps(row), row["answer"]))
        return PromptCollator().rows(prompts)

    def drawn(
        self, network: nn.Module, rows: Sequence[Row], answers: int, temperature: float, seed: int
    ) -> list[Group]:
        """Judged answers to each question.

        Args:
            network: a causal model.
            rows: the questions.
            answers: to each.
            temperature: 0 for the likeliest tokens.
            seed: of the draws.
        """
        groups = PolicySampler(network, self.tokenizer, self.at_once).draw(
            self.batch(rows), answers, SamplingSettings(self.longest, temperature, seed=seed)
        )
        self._checker.prepare(next(network.parameters()).device)
        self._checker(groups)
        return groups

    def examine(self, network: nn.Module, rows: Sequence[Row], answers: int = 4) -> Row:
        """Which questions the likeliest answer gets right, and how many of some drawn answers are right.

        Args:
            network: a causal model.
            rows: the questions.
            answers: that are drawn to each at temperature 1.
        """
        likeliest = self.drawn(network, rows, 1, 0.0, 0)
        drawn = self.drawn(network, rows, answers, 1.0, 0)
        return {
            "right": "".join(str(int(group.answers[0].reward)) for group in likeliest),
            "drawn_right": [sum(int(answer.reward) for answer in group.answers) for group in drawn],
            "drawn": answers,
        }
