"""Documents to segments: paragraphs packed up to a number of tokens, of which not one is lost on the way.

The published splitter left out each paragraph with which a segment would have become too long; here the next segment begins with
it. A paragraph that is too long by itself is divided at the ends of sentences, then between words, then anywhere.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

__all__ = ["segments_of"]

_PARAGRAPH = re.compile(r"\n\s*\n|\n")
# What a part ends with; blanks belong to the part before them, so that parts joined are the text.
_SENTENCE = re.compile(r"[.!?…;:]\s+|[。！？；।۔።]\s*")
_WORD = re.compile(r"\s+")


def segments_of(text: str, most: int, count: Callable[[str], int]) -> list[str]:
    """Segments of fewer than `most` tokens, in order; joined they hold every paragraph.

    Args:
        text: a document; a line is a paragraph, and empty lines between paragraphs say nothing.
        most: tokens that a segment stays below.
        count: tokens of a text.
    """
    packed: list[str] = []
    lines: list[str] = []
    tokens = 0
    for paragraph in (part.strip() for part in _PARAGRAPH.split(text)):
        if not paragraph:
            continue
        for part in _divided(paragraph, most, count):
            more = count(part) + 1  # the line feed between
            if lines and tokens + more >= most:
                packed.append("\n".join(lines))
                lines, tokens = [], 0
            lines.append(part)
            tokens += more
    return [*packed, "\n".join(lines)] if lines else packed


def _divided(text: str, most: int, count: Callable[[str], int]) -> Iterator[str]:
    """A paragraph, in as few parts as it takes to stay below so many tokens."""
    if count(text) + 1 < most:
        yield text
        return
    for border in (_SENTENCE, _WORD):
        ends = [0, *(found.end() for found in border.finditer(text)), len(text)]
        parts = [text[start:end] for start, end in itertools.pairwise(ends) if start < end]
        if len(parts) > 1:
            yield from _joined(parts, most, count)
            return
    half = max(1, len(text) // 2)
    if half == len(text):
        yield text  # one character: it cannot be shorter
        return
    yield from _divided(text[:half], most, count)
    yield from _divided(text[half:], most, count)


def _joined(parts: list[str], most: int, count: Callable[[str], int]) -> Iterator[str]:
    """Sentences or words joined as far as they fit; one that is too long by itself is divided further."""
    open_, tokens = "", 0
    for part in parts:
        more = count(part) + 1
        if open_ and tokens + more >= most:
            yield open_.strip()
            open_, tokens = "", 0
        if more >= most:
            yield from _divided(part, most, count)
            continue
        open_ += part
        tokens += more
    if open_.strip():
        yield open_.strip()
