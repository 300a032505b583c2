"""Rewards of candidates, appended line by line, so that a run that was stopped goes on; each scorer has a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from fulgurite.commands.shared.rewards import read_as
from fulgurite.console import say
from fulgurite.evaluation.runner.plan import text_hash
from fulgurite.evaluation.runner.record_file import RecordFile
from fulgurite.evaluation.selection.candidates import Candidates, Found
from fulgurite.evaluation.selection.scorers import Asked, Scorer, rewards_of

__all__ = ["score_all"]

_KEY = ("item", "index")


def score_all(
    scorer: Scorer,
    candidates: Sequence[Candidates],
    asked: Sequence[Sequence[Asked]],
    folder: Path,
    step: int = 128,
    overwrite: bool = False,
) -> list[Found]:
    """The rewards of each prompt's answers.

    Args:
        scorer: gives them.
        candidates: of each prompt.
        asked: the same answers as scorers take them.
        folder: where the file of rewards lies.
        step: answers that are scored before their rewards are written down.
        overwrite: score all of them anew.
    """
    identity = scorer.identity()
    path = folder / f"rewards-{text_hash(identity)}.jsonl"
    flat = [(own.key, i, each) for own, given in zip(candidates, asked, strict=True) for i, each in enumerate(given)]
    marks = {(key, i): text_hash([each.text, [(t.role, t.content) for t in each.turns]]) for key, i, each in flat}
    with RecordFile(path, "rewards", identity, _KEY, overwrite) as file:
        there = {(record["item"], record["index"]): record for record in file.records}
    other = any(marks.get(place, record["text"]) != record["text"] for place, record in there.items())
    with RecordFile(path, "rewards", identity, _KEY, overwrite or other) as file:
        known = {(record["item"], record["index"]): record["reward"] for record in file.records}
        todo = [(key, i, each) for key, i, each in flat if (key, i) not in known]
        if known and todo:
            say(f"{len(flat) - len(todo)} of {len(flat)} rewards by {scorer.name} are there already")
        with tqdm(
            total=len(todo), desc=f"scoring by {scorer.name}", unit="answer", disable=None if todo else True
        ) as bar:
            for at in range(0, len(todo), step):
                part = todo[at : at + step]
                for (key, i, _), reward in zip(part, rewards_of(scorer, [each for _, _, each in part]), strict=True):
                    file.add({"item": key, "index": i, "text": marks[key, i], "reward": reward})
                    known[key, i] = reward
                bar.update(len(part))
    if scorer.example is not None:
        say(read_as(scorer))
    for reason, count in sorted(scorer.omitted.items()):
        say(f"{count} answers have no reward by {scorer.name}: {reason}")
    return [[known[own.key, i] for i in range(len(own.texts))] for own in candidates]
