"""`fulgurite evaluate --until_passes r`: from PassUntil's draws to scores and to the counts that `fulgurite scaling` takes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fulgurite.evaluation.pass_until.counts import Count, table_of
from fulgurite.evaluation.pass_until.datasets import Score, scores
from fulgurite.evaluation.pass_until.drawing import Drawn
from fulgurite.evaluation.pass_until.reading import COLUMNS
from fulgurite.evaluation.pass_until.stopping import ItemDraws, TaskCount
from fulgurite.evaluation.runner.plan import Plan, text_hash
from fulgurite.whole_files import write_text

__all__ = ["UntilResult", "result_of", "size_of", "write_counts"]


@dataclass(frozen=True)
class UntilResult:
    """The outcome of one task.

    Attributes:
        plan: the task.
        drawn: its draws.
        counts: of each item that is done, or of the whole task if its draws ended by the task.
        score: of the task; None where nothing is done.
        size: parameters without embeddings; None where they are not known.
        warnings: whole sentences.
    """

    plan: Plan
    drawn: Drawn
    counts: list[Count]
    score: Score | None
    size: float | None
    warnings: list[str]

    @property
    def task(self) -> str:
        """Its name."""
        return self.plan.task.name

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        task = self.drawn.task()
        return {
            "task": self.task,
            "source": self.plan.found.source,
            "version": self.plan.task.version,
            "shots": self.plan.shots,
            "until_passes": self.drawn.until.passes,
            "until_passes_of": self.drawn.until.of,
            "cap": self.drawn.until.cap,
            "states": self.drawn.states(),
            "score": None if self.score is None else {**self.score.to_dict(), "size": self.size},
            "draws": sum(each.drawn for each in self.drawn.items),
            "task_draws": None if task is None else {"n": task.n, "c": task.c, "reached": task.reached},
            "items": [
                {
                    "item": each.item,
                    **self._counted(each, task),
                    **{name: getattr(each, name) for name in ("drawn", "tokens", "truncated", "empty", "seconds")},
                }
                for each in self.drawn.items
            ],
            "warnings": self.warnings,
            "identity": self.drawn.identity,
            "judge": self.drawn.judge,
        }

    def _counted(self, each: ItemDraws, task: TaskCount | None) -> dict[str, Any]:
        if task is None:
            return dict(zip(("n", "c", "reached"), each.counts(self.drawn.until), strict=True))
        return dict(zip(("n", "c"), task.items[each.item], strict=True))


def result_of(plan: Plan, drawn: Drawn, model: str, size: float | None) -> UntilResult:
    """The score of a task from its draws; items that are still open have no part in it.

    Args:
        plan: the task.
        drawn: its draws.
        model: its name, for the counts.
        size: parameters without embeddings; None where they are not known.
    """
    until = drawn.until
    settings = json.dumps(
        {key: value for key, value in drawn.identity.items() if key not in ("writer", "judge")}, sort_keys=True
    )
    grader = json.dumps(drawn.judge, sort_keys=True)
    task = drawn.task()
    if task is None:
        counts = [
            Count(model, size or 0.0, each.item, n, c, until.passes, until.cap, settings=settings, grader=grader)
            for each in drawn.items
            if not each.open(until)
            for n, c, _ in [each.counts(until)]
        ]
    else:
        # The name says which instances were asked: models that were asked other ones do not get into one table.
        asked = text_hash([[item.key, plan.request(item)] for item in plan.items])
        name, items = f"{plan.task.name} {asked}", len(plan.items)
        row = Count(
            model,
            size or 0.0,
            name,
            task.n,
            task.c,
            until.passes,
            until.cap,
            settings=settings,
            grader=grader,
            stop="task",
            items=items,
        )
        counts = [] if task.open else [row]
    states, warnings = drawn.states(), list(drawn.troubles)
    if states["open"]:
        of = f"{states['open']} items are not done and have" if task is None else "the task is not done and has"
        score_told = "no part in the score" if task is None else "no score"
        warnings.append(f"{of} {score_told}; run the same command again")
    if plan.found.bad:
        warnings.append(f"{len(plan.found.bad)} broken rows were left out, the first: {plan.found.bad[0]}")
    if not plan.settings.plain:
        warnings.append(
            "the draws are not the model's own distribution (temperature, top_p, top_k or a penalty): the rates are those of these "
            "settings, which have to be the same for all models of a series"
        )
    drawn_in_all = sum(each.drawn for each in drawn.items)
    cut = sum(each.truncated for each in drawn.items)
    if cut > 0.05 * drawn_in_all:
        warnings.append(f"{cut} of {drawn_in_all} answers were cut off and count as not passed: raise max_new_tokens")
    score = None
    if counts:
        # The law's table wants a positive size; a score does not depend on it.
        score = scores(table_of([Count(**{**vars(each), "size": size or 1.0}) for each in counts]))[0]
    return UntilResult(plan, drawn, counts, score, size, warnings)


def write_counts(result: UntilResult) -> Path:
    """Writes OUT/TASK/counts.csv, which `fulgurite scaling` takes; the size is empty where it is not known.

    Args:
        result: of a task.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in result.counts:
        row: Mapping[str, Any] = {**vars(each), "size": int(each.size) or "", "items": each.items or ""}
        writer.writerow(["" if row.get(name) is None else row.get(name) for name in COLUMNS])
    path = result.plan.folder / "counts.csv"
    write_text(path, text.getvalue())
    return path


def size_of(model: nn.Module) -> float | None:
    """Parameters without embeddings and head, the size that the law goes by, of the base without adapters; None if not known.

    Args:
        model: of transformers, with or without adapters.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            bare: Any = AutoModelForCausalLM.from_config(getattr(model, "config", None), trust_remote_code=False)
    except (AttributeError, ValueError):  # no configuration, or none of a causal model that transformers has
        return None
    around = [layer for layer in (bare.get_input_embeddings(), bare.get_output_embeddings()) if layer is not None]
    left_out = {id(p) for layer in around for p in layer.parameters()}
    return float(sum(p.numel() for p in bare.parameters() if id(p) not in left_out))
