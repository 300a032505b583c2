"""pair: rated completions become the table ultrafeedback in the published schema, and preference rows by each named rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fulgurite.data.readers.ultrafeedback import completion_score
from fulgurite.synthesis.annotation.binarising import RULES, Case, rows_of_rule
from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.ledger import TableRows
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__: list[str] = []


@dataclass(frozen=True)
class PairOptions:
    """What becomes of completions.

    Args:
        rules: names of rules of binarisation, each of which makes a table of its name.
        aspect: the aspect that the rule trl looks at.
        column: of the completions.
    """

    rules: list[str] = field(default_factory=lambda: ["all"])
    aspect: Literal["instruction_following", "honesty", "truthfulness", "helpfulness"] = "helpfulness"
    column: str = "completions"

    def __post_init__(self) -> None:
        for rule in self.rules:
            if rule not in RULES:
                raise ValueError(f"synthesize: no rule {rule!r}; allowed are {', '.join(RULES)}")


def _run(options: PairOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    if desk.dry is not None:
        return list(rows)
    tables = {name: TableRows() for name in ("ultrafeedback", *options.rules)}
    for row in rows:
        whole = _published(row, options.column)
        tables["ultrafeedback"].add(whole, row.key, row.made)
        for rule in options.rules:
            case = Case(
                whole["instruction"],
                whole["source"],
                whole["completions"],
                f"{desk.seed}|{rule}|{row.key}",
                options.aspect,
            )
            found, reasons = rows_of_rule(rule, case)
            for one in found:
                tables[rule].add(one, row.key, row.made)
            for why in reasons:
                desk.note(row.key, f"{rule}: {why}")
    desk.count.figures = {f"rows by {rule}": len(tables[rule].rows) for rule in options.rules}
    desk.ledger.tables |= tables
    return list(rows)


def _published(row: Row, column: str) -> dict[str, Any]:
    completions = [_completion(completion) for completion in row.data[column]]
    return {
        "source": str(row.data.get("source") or "own"),
        "instruction": row.text("instruction"),
        "models": [completion["model"] for completion in completions],
        "completions": completions,
        "correct_answers": _texts(row.data.get("correct_answers")),
        "incorrect_answers": _texts(row.data.get("incorrect_answers")),
    }


def _completion(given: Mapping[str, Any]) -> dict[str, Any]:
    mean, _ = completion_score({"annotations": given.get("annotations", {})}, "mean")
    return {
        "model": given["model"],
        "principle": given.get("principle", ""),
        "custom_system_prompt": given.get("custom_system_prompt", ""),
        "response": given["response"],
        "annotations": given.get("annotations", {}),
        "critique": given.get("critique", ""),
        "overall_score": given.get("overall_score"),
        "fine-grained_score": None if math.isnan(mean) else mean,
    }


def _texts(given: object) -> list[str]:
    return [str(text) for text in given] if isinstance(given, list) and given else ["None"]


register(Step("pair", "rows in UltraFeedback's schema, and preference rows by published rules", PairOptions, _run))
