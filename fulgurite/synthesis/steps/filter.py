"""filter: rows that keep to simple rules about a column, and in the language that is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.multilingual.languages import check_detector, detect
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register
from fulgurite.synthesis.trees.interpreter import syntax_error

__all__: list[str] = []


@dataclass(frozen=True)
class FilterOptions:
    """What a row has to keep to; at least one rule is needed.

    Args:
        column: of the rows, a text.
        least: letters at least.
        most: letters at most.
        language: the language's two letters (ISO 639-1), told by lingua (extra synthesis).
        python: whether the text has to be Python without a syntax error.
        equals: the value that the column has to have, in place of these rules.
    """

    column: str = "instruction"
    least: int | None = None
    most: int | None = None
    language: str | None = None
    python: bool = False
    equals: str | int | float | bool | None = None

    def __post_init__(self) -> None:
        if all(value is None for value in (self.least, self.most, self.language, self.equals)) and not self.python:
            raise ValueError("synthesize: filter has no rule; give least, most, language, python or equals")


def _run(options: FilterOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    if options.language is not None:
        check_detector([options.language.lower()])
    kept = []
    for row in rows:
        why = None if desk.dry is not None and options.equals is not None else _against(options, row)
        if why is None:
            kept.append(row)
        else:
            desk.drop(row, *why)
    return kept


def _against(options: FilterOptions, row: Row) -> tuple[str, str] | None:
    if options.equals is not None:
        value = row.data.get(options.column)
        return None if value == options.equals else (f"{options.column} is another", repr(value)[:60])
    text = row.text(options.column)
    if options.least is not None and len(text) < options.least:
        return f"fewer than {options.least} letters", str(len(text))
    if options.most is not None and len(text) > options.most:
        return f"more than {options.most} letters", str(len(text))
    if options.python and (wrong := syntax_error(text)) is not None:
        return "a syntax error", wrong
    if options.language is not None:
        found = detect(text)
        if found != options.language.lower():
            return "another language", str(found)
    return None


register(Step("filter", "rows that keep to rules about letters, language, Python or a value", FilterOptions, _run))
