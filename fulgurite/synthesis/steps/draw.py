"""draw: completions of a row by models of a pool, with UltraFeedback's principles in the system message if wanted.

The published mixes go by the row's source: EvolInstruct helpfulness; FalseQA and TruthfulQA truthfulness; FLAN 60 % helpfulness,
20 % truthfulness, 20 % verbalised calibration; ShareGPT, UltraChat and all others 60 % helpfulness, 20 % truthfulness, 18 %
honesty, 2 % verbalised calibration. A template principle_NAME has one text a line, of which each completion gets one at random.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fulgurite.data.records.conversation import Turn
from fulgurite.synthesis.desk import Answer, Ask, Desk
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__ = ["MIXES"]

_OTHERS = {"helpfulness": 0.6, "truthfulness": 0.2, "honesty": 0.18, "verbalized_calibration": 0.02}
MIXES: dict[str, Mapping[str, float]] = {
    "evol_instruct": {"helpfulness": 1.0},
    "false_qa": {"truthfulness": 1.0},
    "truthful_qa": {"truthfulness": 1.0},
    "flan": {"helpfulness": 0.6, "truthfulness": 0.2, "verbalized_calibration": 0.2},
}


@dataclass(frozen=True)
class DrawOptions:
    """Who writes what.

    Args:
        models: the pool.
        n: models of the pool for each row, at random; none takes all of them.
        draws: completions of each of these models.
        principles: whether each completion gets a principle.
        as_system: whether the principle is a system message; false puts it before the request, for models that take none.
        column: of the request.
        into: the column of the completions.
    """

    models: list[str]
    n: int | None = None
    draws: int = 1
    principles: bool = False
    as_system: bool = True
    column: str = "instruction"
    into: str = "completions"

    def __post_init__(self) -> None:
        if self.n is not None and not 1 <= self.n <= len(self.models):
            raise ValueError(f"synthesize: n={self.n} of {len(self.models)} models; give 1 to {len(self.models)}")
        if not self.models or self.draws < 1:
            raise ValueError("synthesize: draw needs at least one model, and draws of at least 1")


def _run(options: DrawOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    asks: list[Ask] = []
    planned: list[dict[str, Any]] = []
    owners: list[int] = []
    for number, row in enumerate(rows):
        draw = random.Random(f"{desk.seed}|{desk.step}|{row.key}")
        pool = _some(options.models, options.n, draw)
        for model in pool:
            for index in range(options.draws):
                plan = {"model": desk.author(model).called or model, "principle": "", "custom_system_prompt": ""}
                turns, templates = [Turn("user", row.text(options.column))], []
                if options.principles:
                    mix = MIXES.get(str(row.data.get("source")), _OTHERS)
                    plan["principle"] = _weighted(mix, draw)
                    name = f"principle_{plan['principle']}"
                    lines = [line.strip() for line in desk.prompt(name, {}).splitlines() if line.strip()]
                    plan["custom_system_prompt"] = lines[int(draw.random() * len(lines))]
                    lead, templates = plan["custom_system_prompt"], [name]
                    if options.as_system:
                        turns = [Turn("system", lead), *turns]
                    else:
                        turns = [Turn("user", f"{lead}\n\n{row.text(options.column)}")]
                asks.append(Ask(row.key, f"completion/{model}", model, tuple(turns), index, tuple(templates)))
                planned.append(plan)
                owners.append(number)
    found: dict[int, list[tuple[dict[str, Any], Answer | None]]] = {}
    for number, plan, answer in zip(owners, planned, desk.ask(asks, "completions"), strict=True):
        found.setdefault(number, []).append((plan, answer))
    kept = []
    for number, row in enumerate(rows):
        given = [(plan, answer) for plan, answer in found[number] if answer is not None]
        if len(given) < len(found[number]):
            desk.wait(row)
            continue
        for plan, answer in given:
            if not answer.text.strip():
                desk.note(row.key, "an empty completion", f"{plan['model']}: {answer.finish}")
        completions = [{**plan, "response": answer.text} for plan, answer in given]
        kept.append(row.having({options.into: completions}, tuple(answer.made for _, answer in given)))
    return kept


def _some(models: Sequence[str], count: int | None, draw: random.Random) -> list[str]:
    """So many models in random order; all of them in the recipe's order."""
    if count is None:
        return list(models)
    keyed = sorted((draw.random(), name) for name in models)  # random() alone is the same on every version of Python
    return [name for _, name in keyed[:count]]


def _weighted(mix: Mapping[str, float], draw: random.Random) -> str:
    left = draw.random() * sum(mix.values())
    for name, weight in mix.items():
        left -= weight
        if left < 0:
            return name
    return next(reversed(list(mix)))


register(Step("draw", "completions by models of a pool, under principles if wanted", DrawOptions, _run))
