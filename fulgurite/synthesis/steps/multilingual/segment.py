"""segment: documents in segments of whole paragraphs, each of which is a row (UltraLink: documents of 1,000 to 10,000 tokens in
segments of fewer than 2,000; a last one stays if it has more than 1,000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fulgurite.synthesis.authors import Author
from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.multilingual.segments import segments_of
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__: list[str] = []


@dataclass(frozen=True)
class SegmentOptions:
    """How documents are divided.

    Args:
        by: the model whose tokenizer counts; a server's tokens are estimated, a third of the bytes.
        tokens: a segment has fewer.
        least: a last segment has more, or it is left out.
        document_least: a document has at least so many tokens.
        document_most: a document has at most so many tokens; none: any number.
        column: of the documents.
    """

    by: str
    tokens: int = 2000
    least: int = 1000
    document_least: int = 1000
    document_most: int | None = 10_000
    column: str = "document"

    def __post_init__(self) -> None:
        if self.tokens < 3 or not 0 <= self.least < self.tokens:
            raise ValueError(
                f"synthesize: segment tokens={self.tokens}, least={self.least}; give tokens of 3 or more, and a least below them"
            )
        if self.document_most is not None and self.document_most < max(1, self.document_least):
            raise ValueError(
                f"synthesize: segment document_most={self.document_most} is below document_least={self.document_least}; give more"
            )


def _run(options: SegmentOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    author = desk.author(options.by)
    kept = []
    left_out = whole = 0
    for row in rows:
        text = row.text(options.column)
        tokens = _count(author, text)
        if tokens < options.document_least:
            desk.drop(row, f"fewer than {options.document_least} tokens", str(tokens))
            continue
        if options.document_most is not None and tokens > options.document_most:
            desk.drop(row, f"more than {options.document_most} tokens", str(tokens))
            continue
        segments = segments_of(text, options.tokens, lambda part: _count(author, part))
        rest = _count(author, segments[-1])
        whole += tokens
        if rest <= options.least:
            segments.pop()
            left_out += rest
            told = f"the last of {rest} tokens"
            if not segments:
                desk.drop(row, f"a single segment of {options.least} tokens or fewer", told)
                continue
            desk.note(row.key, f"a last segment of {options.least} tokens or fewer is left out", told)
        for number, segment in enumerate(segments, 1):
            kept.append(Row(f"{row.key}.{number}", {**row.data, options.column: segment}, row.problem, row.made))
    desk.count.figures = {"tokens of divided documents": whole, "of them in last segments left out": left_out}
    return kept


def _count(author: Author, text: str) -> int:
    """Tokens of a text alone."""
    if author.tokenizer is None:
        return author.letters(text)
    return len(author.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


register(Step("segment", "documents in segments of whole paragraphs, a row each", SegmentOptions, _run))
