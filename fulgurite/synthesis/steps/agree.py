"""agree: how far two judges agree whose ratings of the same completions stand in two places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fulgurite.data.readers.base import BadRow
from fulgurite.data.readers.ultrafeedback import rating
from fulgurite.synthesis.annotation.agreement import agreement
from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__: list[str] = []


@dataclass(frozen=True)
class AgreeOptions:
    """Whose ratings are compared.

    Args:
        first: what the ratings of one judge are called in each completion: of aspects, or a score.
        second: those of the other.
        column: of the completions.
    """

    first: str = "annotations"
    second: str = "annotations_second"
    column: str = "completions"


def _run(options: AgreeOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    aspects: dict[str, list[tuple[list[float | None], list[float | None]]]] = {}
    for row in rows:
        completions = row.data[options.column]
        for name in _aspects(completions, options.first, options.second):
            judges = [
                [_rating(completion.get(judge), name) for completion in completions]
                for judge in (options.first, options.second)
            ]
            aspects.setdefault(name, []).append((judges[0], judges[1]))
    if rows and not aspects and desk.dry is None:
        raise ValueError(
            f"synthesize: step {desk.step}: no completion has both {options.first!r} and {options.second!r}; two rate steps with "
            "into: of these names make them"
        )
    desk.count.figures = {name: agreement(found) for name, found in aspects.items()}
    return list(rows)


def _aspects(completions: Sequence[Mapping[str, Any]], first: str, second: str) -> list[str]:
    found: dict[str, None] = {}
    for completion in completions:
        one, other = completion.get(first), completion.get(second)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found |= {name: None for name in one if name in other}
        elif one is not None or other is not None:
            found[first] = None
    return list(found)


def _rating(given: Any, aspect: str) -> float | None:
    value = given.get(aspect, {}).get("Rating") if isinstance(given, Mapping) else given
    try:
        return rating(value, aspect)
    except BadRow:
        return None


register(Step("agree", "how far two judges agree: same rating, kappa, Spearman, order of pairs", AgreeOptions, _run))
