"""decontaminate: rows that stand in a test set, by n-grams of words (UltraInteract: 8) or as a part of a text (its LeetCode
rule).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulgurite.data.sources.tables import rows_of
from fulgurite.evaluation.tasks import TASKS
from fulgurite.evaluation.tasks.rows import items_of
from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.multilingual.languages import WORD
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__ = ["grams"]


@dataclass(frozen=True)
class DecontaminateOptions:
    """What a row is compared with.

    Args:
        against: files of test rows, or tasks as TASK=PATH ("gsm8k=FILE").
        column: of our rows.
        test_column: of a file's rows; none takes all of their texts.
        ngram: words in a row of which not one may stand in a test row too; 0 leaves this rule out.
        substring: whether a test row's text may not stand in ours, nor ours in it.
    """

    against: list[str]
    column: str = "instruction"
    test_column: str | None = None
    ngram: int = 8
    substring: bool = True

    def __post_init__(self) -> None:
        if not self.against:
            raise ValueError("synthesize: against is empty; name files of test rows, or leave the step out")
        if self.ngram < 0 or (self.ngram == 0 and not self.substring):
            raise ValueError(f"synthesize: ngram={self.ngram}; give 1 or more, or 0 with substring true")


def grams(text: str, width: int) -> set[str]:
    """The n-grams of a text's words, case and marks aside; a shorter text has none. Without spaces each letter is a word.

    Args:
        text: any.
        width: words of each.
    """
    words = WORD.findall(text.lower())
    return {" ".join(words[start : start + width]) for start in range(len(words) - width + 1)}


def _run(options: DecontaminateOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    tested: dict[str, str] = {}
    texts: dict[str, str] = {}
    for where, text in _tests(options):
        texts.setdefault(_plain(text), where)
        if options.ngram:
            for gram in grams(text, options.ngram):
                tested.setdefault(gram, where)
    texts.pop("", None)
    if not texts:
        raise ValueError(
            f"synthesize: step {desk.step}: no text stands in {', '.join(options.against)}; check test_column"
        )
    desk.count.figures = {"test texts": len(texts), f"their {options.ngram}-grams": len(tested)}
    kept = []
    for row in rows:
        text = row.text(options.column)
        shared = (
            next((gram for gram in sorted(grams(text, options.ngram)) if gram in tested), None)
            if options.ngram
            else None
        )
        plain = _plain(text)
        inside = next((place for known, place in texts.items() if known in plain or plain in known), None)
        if shared is not None:
            desk.drop(row, f"{options.ngram} words of a test row", f"{tested[shared]}: {shared!r}")
        elif options.substring and inside is not None:
            desk.drop(row, "a part of a test row, or around one", inside)
        else:
            kept.append(row)
    return kept


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _tests(options: DecontaminateOptions) -> Iterator[tuple[str, str]]:
    for source in options.against:
        name, sign, path = source.partition("=")
        if sign and name in TASKS:
            for item in items_of(TASKS[name], path, None, "skip").items:
                yield f"{name} {item.key}", item.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
            continue
        if not Path(source).expanduser().exists():
            raise FileNotFoundError(
                f"synthesize: against: no such file: {source}; give files of test rows, or TASK=PATH"
            )
        for place, row in rows_of(source, owner="synthesize"):
            yield from ((str(place), text) for text in _texts(row, options.test_column))


def _texts(row: Mapping[str, Any], column: str | None) -> list[str]:
    if column is not None:
        return [str(row[column])] if row.get(column) is not None else []
    return [value for value in row.values() if isinstance(value, str) and len(WORD.findall(value)) > 2]


register(
    Step(
        "decontaminate", "leaves out rows that stand in a test set, by n-grams or as a part", DecontaminateOptions, _run
    )
)
