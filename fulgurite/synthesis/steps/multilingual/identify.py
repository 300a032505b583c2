"""identify: which language a row is in, told by lingua or given; every later step of UltraLink's pipelines goes by it.

The published pipeline compared labels of two different fastText models, so that it left out every document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.multilingual.languages import check_detector, detect, name_of
from fulgurite.synthesis.multilingual.survival import kept_in
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__: list[str] = []


@dataclass(frozen=True)
class IdentifyOptions:
    """How the language of a row is known.

    Args:
        column: of the rows, a text.
        languages: the languages that rows may be in, two letters each, told by lingua (extra synthesis); none takes all that lingua
            tells.
        language: the language that all rows are in, as two letters; lingua is not asked then.
    """

    column: str = "document"
    languages: list[str] | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        if self.language is not None and self.languages is not None:
            raise ValueError(
                "synthesize: identify has language and languages; give language where all rows are in one that you know, or "
                "languages to have them told"
            )
        if self.languages is not None and not self.languages:
            raise ValueError("synthesize: languages of identify is empty; name one at least, or leave it out for all")
        for code in self.languages or ([] if self.language is None else [self.language]):
            name_of(code)


def _run(options: IdentifyOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    if options.language is None:
        check_detector(options.languages)
    kept = []
    for row in rows:
        code = options.language or detect(kept_in(row.text(options.column)).prose)
        if code is None:
            desk.drop(row, "a language that cannot be told")
        elif options.languages is not None and code not in options.languages:
            desk.drop(row, "another language", code)
        else:
            kept.append(row.having({"language": code}))
    found = [str(row.data["language"]) for row in kept]
    desk.count.figures = {f"rows in {code}": found.count(code) for code in sorted(set(found))}
    return kept


register(Step("identify", "the language of each row, told by lingua or given", IdentifyOptions, _run))
