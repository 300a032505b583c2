"""Objectives with their scales, and the condition tokens that ask for a level of them (CPO, arXiv 2402.19085).

A condition stands in front of the instruction as plain text, one token per controlled objective, in the fixed order of the
objectives, each followed by one space: `<helpfulness:5> <honesty:3> <harmlessness:1> Explain tides.`

| spelling | one token | where it comes from |
|---|---|---|
| canonical | `<honesty:5>` | ours; the published code and paper disagree with each other |
| paper | `< Honesty: 5 >` | the paper's figure |
| legacy | `< honesty: 5 >` | the published CPSFT code and test files |
| legacy_cdpo | `< honesty: 5 >`, helpfulness as `< helplessness: 5 >` | the published CDPO code, with its misspelling |

The published code trained its two stages and tested with different spellings; here the objectives travel with the weights,
spelling included, and whatever else is asked for is refused (:meth:`Objectives.check_same`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

__all__ = ["CONDITION_FILE", "OBJECTIVES", "SPELLINGS", "Condition", "Objectives", "Spelling"]

Condition = Mapping[str, float]
Spelling = Literal["canonical", "paper", "legacy", "legacy_cdpo"]

CONDITION_FILE = "conditions.json"
OBJECTIVES: dict[str, list[float]] = {"helpfulness": [1, 5], "honesty": [1, 5], "harmlessness": [0, 1]}
SPELLINGS = ("canonical", "paper", "legacy", "legacy_cdpo")
_ROOM = 1e-9
_NAME = re.compile(r"[A-Za-z][\w-]*")


class Objectives:
    """Names of objectives in their fixed order, each with the lowest and the highest level of its scale.

    Args:
        scales: lowest and highest level by name; the order is that of the tokens.
        spelling: how a condition is written, one of ``SPELLINGS``.

    Raises:
        ValueError: no objective; a name that is no word; a scale that is none; an unknown spelling.
    """

    def __init__(self, scales: Mapping[str, Sequence[float]], spelling: Spelling = "canonical") -> None:
        if not scales:
            raise ValueError("Objectives: no objective was given; give at least one, such as {'helpfulness': [1, 5]}")
        if spelling not in SPELLINGS:
            raise ValueError(
                f"Objectives: spelling {spelling!r}; allowed are {', '.join(map(repr, SPELLINGS))}; choose one of them"
            )
        self.scales: dict[str, tuple[float, float]] = {}
        for name, scale in scales.items():
            if not _NAME.fullmatch(name) or name in ("any", "none"):
                raise ValueError(
                    f"Objectives: {name!r} cannot be written as a token; a name is a word of letters, digits, _ and -, other "
                    "than 'any' and 'none'; rename it"
                )
            try:
                ends = () if isinstance(scale, str) else tuple(map(float, scale))
            except (TypeError, ValueError, OverflowError):
                ends = ()
            if len(ends) != 2 or not all(map(math.isfinite, ends)) or ends[0] >= ends[1]:
                raise ValueError(
                    f"Objectives: the scale of {name!r} is {scale!r}; lowest and highest level are needed, such as [1, 5]"
                )
            self.scales[name] = (ends[0], ends[1])
        self.spelling: Spelling = spelling
        words = {name: _spelt(name, spelling) for name in self.scales}
        if len(set(words.values())) < len(words):
            raise ValueError(
                f"Objectives: spelling {spelling!r} writes two of {', '.join(words)} alike; rename one, or choose 'canonical'"
            )
        self._words = words

    def __iter__(self) -> Any:
        return iter(self.scales)

    def __len__(self) -> int:
        return len(self.scales)

    def __contains__(self, name: object) -> bool:
        return name in self.scales

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Objectives) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((tuple(self.scales.items()), self.spelling))

    def __repr__(self) -> str:
        scales = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in self.scales.items())
        return f"{scales}; spelling {self.spelling}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as what JSON and checkpoints hold."""
        return {"objectives": {name: list(ends) for name, ends in self.scales.items()}, "spelling": self.spelling}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Objectives:
        """What `to_dict` gave.

        Args:
            stored: with the keys objectives and spelling.

        Raises:
            ValueError: something else.
        """
        try:
            return cls(stored["objectives"], stored["spelling"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"Objectives: {stored!r:.80} says nothing about objectives ({error!r})") from error

    def only(self, names: Iterable[str]) -> Objectives | None:
        """These objectives alone, in the order that they have here; None for none of them.

        Args:
            names: those to keep.
        """
        kept = set(names)
        scales = {name: scale for name, scale in self.scales.items() if name in kept}
        return Objectives(scales, self.spelling) if scales else None

    def outside(self, name: str, level: float) -> bool:
        """Whether a level is none of the objective's scale.

        Args:
            name: of the objective.
            level: the level.
        """
        low, high = self.scales[name]
        return not low - _ROOM <= level <= high + _ROOM

    def prefix(self, condition: Condition) -> str:
        """The tokens of a condition, to be put in front of the instruction; "" for the empty one.

        Args:
            condition: level by objective, any subset.

        Raises:
            ValueError: an objective that is not here, or a level outside its scale.
        """
        self.check(condition)
        given = [(name, condition[name]) for name in self.scales if name in condition]
        return "".join(f"{self._token(name, level)} " for name, level in given)

    def apart(self, text: str) -> tuple[dict[str, float], str]:
        """The condition that a text begins with, and the instruction behind it; what `prefix` wrote, read back.

        Args:
            text: with or without tokens in front.
        """
        names = {word.lower(): name for name, word in self._words.items()}
        token = re.compile(
            r"<([\w-]+):([-\d.e+]+)> " if self.spelling == "canonical" else r"< ([\w-]+): ([-\d.e+]+) > "
        )
        condition: dict[str, float] = {}
        while (found := token.match(text)) and (name := names.get(found[1].lower())) and name not in condition:
            condition[name] = float(found[2])
            text = text[found.end() :]
        return condition, text

    def parse(self, text: str, any_level: bool = False) -> dict[str, float | None]:
        """A condition as it is typed, `helpfulness=5,honesty=3`; "none" is the empty one.

        Args:
            text: what was typed.
            any_level: whether a level may be "any", which becomes None.

        Raises:
            ValueError: anything else; an objective that is not here; a level outside its scale.
        """
        found: dict[str, float | None] = {}
        for part in [] if text.strip() == "none" else text.split(","):
            name, equals, level = (piece.strip() for piece in part.partition("="))
            allowed = "a number" + (" or any" if any_level else "")
            try:
                value = None if any_level and level == "any" else float(level)
            except ValueError:
                value = math.nan
            if not equals or name in found or (value is not None and not math.isfinite(value)):
                raise ValueError(
                    f"conditions: {text!r}; OBJECTIVE=LEVEL is needed, each objective once, separated by commas, the level "
                    f"{allowed}, such as {next(iter(self.scales))}={next(iter(self.scales.values()))[1]:g}"
                )
            found[name] = value
        self.check({name: value for name, value in found.items() if value is not None})
        self._check_names(found)
        return {name: found[name] for name in self.scales if name in found}

    def check(self, condition: Condition) -> None:
        """Refuses a condition that cannot be asked for.

        Args:
            condition: level by objective.

        Raises:
            ValueError: an objective that is not here, or a level outside its scale.
        """
        self._check_names(condition)
        for name, level in condition.items():
            if self.outside(name, level):
                low, high = self.scales[name]
                raise ValueError(
                    f"conditions: {name}={level:g}; its scale goes from {low:g} to {high:g}; choose a level on it"
                )

    def _check_names(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.scales:
                near = get_close_matches(name, self.scales, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "choose among these"
                raise ValueError(
                    f"conditions: {name!r} is no objective that was trained with; those are {', '.join(self.scales)}; {hint}"
                )

    def check_same(self, other: Objectives, mine: str, theirs: str) -> None:
        """Refuses another scale or spelling of the same objectives, and objectives that are not here.

        Args:
            other: what is to be used with this.
            mine: what messages call this.
            theirs: what messages call the other.

        Raises:
            ValueError: they differ.
        """
        foreign = [name for name in other if self.scales.get(name) != other.scales[name]]
        if foreign or self.spelling != other.spelling:
            raise ValueError(
                f"conditions of {theirs} and {mine} differ: {other} against {self}; both must name the same objectives with the "
                f"same scales and spelling, or the model meets tokens that it never saw; correct objectives and spelling"
            )

    def _token(self, name: str, level: float) -> str:
        return f"<{name}:{level:g}>" if self.spelling == "canonical" else f"< {self._words[name]}: {level:g} >"


def _spelt(name: str, spelling: str) -> str:
    if spelling == "paper":
        return name[0].upper() + name[1:]
    return "helplessness" if spelling == "legacy_cdpo" and name == "helpfulness" else name
