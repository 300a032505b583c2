"""Training data from repairs that worked: rows that SFTDataModule and PreferenceDataModule read.

A turn mended a program if the program before it fails the hidden tests and the one after it passes them. Of each such turn come

- two rows for supervised fine-tuning: the teacher's prompt with the explanation, and the learner's prompt with the mended program;
- pairs: under a prompt whose program failed, the program that the same chain came to in the end is preferred; and where several
  chains had the same prompt, programs that pass, and explanations that led to one, are preferred to those that do not.

Rows of a chat are messages (schemas messages and preference), the mended program in a block of code. Rows of completions are texts,
exactly as they were asked and continued; train them with --data.template none, or --data.as_chat false for pairs. Prompts of the
feedback mode hidden quote hidden tests: take chains of training tasks, never of those that a model is evaluated on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from fulgurite.evaluation.repair.book import Book, Place
from fulgurite.evaluation.repair.feedback import passed
from fulgurite.evaluation.repair.plan import RepairPlan
from fulgurite.whole_files import write_text

__all__ = ["Turned", "pairs_of", "sft_rows", "turned", "write_rows"]

Row = dict[str, Any]
_STEPS = ("explanation", "program")


@dataclass(frozen=True)
class Turned:
    """One turn of a chain; turn 0, the first program, is one too.

    Attributes:
        answers: its records by step.
        mended: whether it has a failing program before it and one that passes the hidden tests after it.
        right: whether the program after it passes the hidden tests.
        program: the program after it; None if the answer held none.
        best: the program with which the chain passed in the end, where this turn's fails; else None.
        fence: what the head of its block of code calls the language.
    """

    answers: Mapping[str, Row]
    mended: bool
    right: bool
    program: str | None
    best: str | None
    fence: str = "python"


def turned(plan: RepairPlan, book: Book) -> list[Turned]:
    """The turns of all chains of repair, in order; the first program of a chain comes once for each method.

    Args:
        plan: what was run.
        book: its records.
    """
    found = []
    for method, problem, index in product(plan.methods, plan.problems, range(plan.n)):
        verdicts = book.chain(method, problem.item.key, index, problem.given is not None, plan.turns).verdicts
        last = verdicts[-1] if verdicts and passed(verdicts[-1]["hidden"]) else None
        before = True
        for verdict in verdicts:
            place = Place(verdict["method"], verdict["item"], verdict["index"], verdict["turn"])
            answers = {step: record for step in _STEPS if (record := book.get(place, step)) is not None}
            right = passed(verdict["hidden"])
            best = None if right or last is None else last["program"]
            if answers:  # a program that was given was no answer
                mended = right and not before
                found.append(Turned(answers, mended, right, verdict["program"], best, problem.fence))
            before = right
    return found


def sft_rows(turns: Sequence[Turned]) -> list[Row]:
    """Explanations and programs of the turns that mended, each row once.

    Args:
        turns: of `turned`.
    """
    rows: dict[str, Row] = {}
    for turn in turns:
        for step, record in turn.answers.items() if turn.mended else ():
            answer = _answer(record, step, turn)
            if answer.strip():
                rows.setdefault(repr((record["prompt"], answer)), _row(record["prompt"], answer))
    return list(rows.values())


def pairs_of(turns: Sequence[Turned]) -> list[Row]:
    """Pairs of a mended answer and one that is not, under the same prompt, each once.

    Args:
        turns: of `turned`.
    """
    rows: dict[str, Row] = {}
    for prompt, chosen, rejected in [*_within_chains(turns), *_across_chains(turns)]:
        if chosen.strip() and rejected.strip() and chosen != rejected:
            rows.setdefault(repr((prompt, chosen, rejected)), _pair(prompt, chosen, rejected))
    return list(rows.values())


def write_rows(plan: RepairPlan, book: Book) -> dict[Path, int]:
    """Writes sft.jsonl and pairs.jsonl into the run's folder, as far as there are rows.

    Args:
        plan: what was run.
        book: its records.

    Returns:
        The files with their numbers of rows.
    """
    turns = turned(plan, book)
    written = {}
    for name, rows in (("sft.jsonl", sft_rows(turns)), ("pairs.jsonl", pairs_of(turns))):
        file = plan.folder / name
        if rows:
            write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
            written[file] = len(rows)
        else:
            file.unlink(missing_ok=True)  # of a run with fewer records
    return written


def _within_chains(turns: Sequence[Turned]) -> Iterator[tuple[Any, str, str]]:
    for turn in turns:
        record = turn.answers.get("program")
        if record is None or turn.best is None or turn.program is None:
            continue
        if isinstance(record["prompt"], str):
            body = _continuation(turn.best, turn.program, record["text"])
            if body is not None:
                yield record["prompt"], body, record["text"]
        else:
            yield record["prompt"], _fenced(turn.best, turn.fence), _fenced(turn.program, turn.fence)


def _across_chains(turns: Sequence[Turned]) -> Iterator[tuple[Any, str, str]]:
    grouped: dict[str, tuple[Any, list[str], list[str]]] = {}
    for turn in turns:
        for step, record in turn.answers.items():
            answer = _answer(record, step, turn)
            _, good, bad = grouped.setdefault(repr(record["prompt"]), (record["prompt"], [], []))
            (good if turn.right else bad).append(answer)
    for prompt, good, bad in grouped.values():
        yield from ((prompt, chosen, rejected) for chosen in good for rejected in bad)


def _continuation(best: str, program: str, text: str) -> str | None:
    """The better program as a completion of the prompt that `text` continued: without the beginning that the prompt holds."""
    at = program.find(text)
    if at < 0:
        return None
    begun = program[:at]
    return best[at:] if best.startswith(begun) else None


def _answer(record: Mapping[str, Any], step: str, turn: Turned) -> str:
    """What a model is to answer: a chat's program clean in its block, everything else as it was written."""
    text: str = record["text"]
    if step != "program" or turn.program is None or isinstance(record["prompt"], str):
        return text
    return _fenced(turn.program, turn.fence)


def _fenced(program: str, fence: str) -> str:
    return f"```{fence}\n{program.strip(chr(10))}\n```"


def _row(prompt: Any, answer: str) -> Row:
    if isinstance(prompt, str):
        return {"prompt": prompt, "completion": answer}
    return {"messages": [*prompt, {"role": "assistant", "content": answer}]}


def _pair(prompt: Any, chosen: str, rejected: str) -> Row:
    if isinstance(prompt, str):
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }
