"""Where candidates come from: a file of `fulgurite generate --best_of`, or answers to a task's items, drawn and judged here."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulgurite.data.readers.base import BadRow
from fulgurite.data.readers.messages import messages
from fulgurite.data.records.conversation import Turn
from fulgurite.data.sources.tables import read_table
from fulgurite.evaluation.runner.plan import Plan
from fulgurite.evaluation.runner.scoring import Scored
from fulgurite.evaluation.selection.candidates import Candidates, Found
from fulgurite.evaluation.selection.scorers import Asked

__all__ = ["Gathered", "of_file", "of_task"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Gathered:
    """Candidates, with what scorers need of them.

    Attributes:
        candidates: of each prompt.
        asked: each prompt's answers, as scorers take them.
        rewards: that stood in the file; None where there were none.
        missing: what could not be had, whole sentences.
    """

    candidates: list[Candidates]
    asked: list[list[Asked]]
    rewards: list[Found] | None
    missing: list[str]


def of_task(plan: Plan, scored: Scored) -> Gathered:
    """The answers to a task's items with their verdicts. Scorers read an item as a user's question, without the examples.

    Args:
        plan: the task.
        scored: its samples with their verdicts.
    """
    samples: defaultdict[str, list[tuple[Row, Row | None]]] = defaultdict(list)
    for sample, verdict in zip(scored.samples, scored.scores, strict=True):
        samples[sample["item"]].append((sample, verdict))
    candidates, asked = [], []
    for item in plan.items:
        own = samples[item.key]
        chat = (Turn("user", item.question or item.prompt),)
        candidates.append(
            Candidates(
                item.key,
                chat if plan.chat else (Turn("prompt", item.prompt),),
                tuple(sample["text"] for sample, _ in own),
                tuple(sample["finish"] for sample, _ in own),
                tuple(sample.get("tokens") for sample, _ in own),
                [None if verdict is None else verdict["correct"] for _, verdict in own],
                tuple(None if verdict is None else verdict.get("group") for _, verdict in own),
            )
        )
        where = f"{plan.task.name} {item.key}"
        asked.append([Asked(chat, sample["text"], where, item) for sample, _ in own])
    missing = []
    if scored.missing:
        missing.append(f"{scored.missing} answers are missing; run the same command again to get them")
    if scored.broken:
        count = sum(scored.broken.values())
        missing.append(f"judging {count} answers failed, which says nothing about them ({next(iter(scored.broken))})")
    return Gathered(candidates, asked, None, missing)


def of_file(path: Path) -> Gathered:
    """The candidates of a file with `completions` and `asked` or `prompt`; what `fulgurite generate --best_of` adds is read too.

    Args:
        path: .jsonl, .json, .csv, .parquet or .arrow.

    Raises:
        ValueError: a row without answers, or with another number of rewards than of answers.
    """
    table = read_table(path, owner="best-of-n: --file")
    candidates: list[Candidates] = []
    asked: list[list[Asked]] = []
    rewards: list[Found | None] = []
    for number, (row, place) in enumerate(zip(table.rows, table.places, strict=True), 1):
        prompt, texts = _prompt(row, str(place)), row.get("completions")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"{place}: 'completions' holds {repr(texts)[:60]}; a list of texts is needed, as `fulgurite generate --best_of` "
                "writes it; correct the row"
            )
        numbers = {
            name: _numbers(row, name, len(texts), str(place)) for name in ("rewards", "correct", "answer_tokens")
        }
        finishes = row.get("finishes") or [""] * len(texts)
        if not isinstance(finishes, list) or len(finishes) != len(texts):
            raise ValueError(f"{place}: 'finishes' holds no word for each of the {len(texts)} answers; correct the row")
        lengths = tuple(None if n is None else int(n) for n in numbers["answer_tokens"] or ())
        candidates.append(
            Candidates(
                str(number), prompt, tuple(texts), tuple(map(str, finishes)), lengths, list(numbers["correct"] or [])
            )
        )
        asked.append([Asked(prompt, text, str(place)) for text in texts])
        rewards.append(numbers["rewards"])
    if not candidates:
        raise ValueError(f"best-of-n: {path} holds no row; give a file of `fulgurite generate --best_of`")
    known = [given for given in rewards if given is not None]
    if known and len(known) < len(rewards):
        raise ValueError(
            f"best-of-n: {len(known)} of {len(rewards)} rows of {path} have 'rewards'; score all of them: give --reward, or make "
            "the file anew"
        )
    return Gathered(candidates, asked, known or None, [])


def _prompt(row: Row, where: str) -> tuple[Turn, ...]:
    value = row.get("asked") or row.get("prompt")
    if isinstance(value, str) and value.strip():
        return (Turn("prompt", value),)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: 'prompt' holds {repr(value)[:60]}; a text or messages are needed; correct the row")
    try:
        return messages(value, "asked" if row.get("asked") else "prompt")
    except BadRow as error:
        raise ValueError(f"{where}: {error.reason}: {error.detail}; correct the row") from error


def _numbers(row: Row, name: str, count: int, where: str) -> Found | None:
    """A column with a number, or nothing, for each answer; None where the row has no such column."""
    found = row.get(name)
    if found is None:
        return None
    if not isinstance(found, list) or len(found) != count:
        held = f"{len(found)} values" if isinstance(found, list) else repr(found)[:40]
        raise ValueError(f"{where}: {name!r} holds {held} for {count} answers; one for each is needed; correct the row")
    for value in found:
        if value is not None and (not isinstance(value, int | float) or not math.isfinite(value)):
            raise ValueError(
                f"{where}: {name!r} holds {value!r}; numbers are needed, or null for an answer without one; correct the row"
            )
    return [None if value is None else float(value) for value in found]
