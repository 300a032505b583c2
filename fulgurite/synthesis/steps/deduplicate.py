"""deduplicate: rows whose text stands there already, up to blanks and case; or nearly, by MinHash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.multilingual.languages import WORD
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__: list[str] = []
_WIDTH = 5  # words of a shingle; letters of a script without spaces


@dataclass(frozen=True)
class DeduplicateOptions:
    """Which rows count as the same.

    Args:
        column: whose text is compared.
        near: Jaccard similarity of word 5-grams from which texts count as the same, by MinHash (needs datasketch, extra synthesis);
            none takes equal texts only.
    """

    column: str = "instruction"
    near: float | None = None

    def __post_init__(self) -> None:
        if self.near is not None and not 0 < self.near < 1:
            raise ValueError(f"synthesize: near={self.near}; allowed is a number between 0 and 1")


def _run(options: DeduplicateOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    kept: list[Row] = []
    seen: dict[str, str] = {}
    index = None if options.near is None else _index(options.near)
    for row in rows:
        plain = " ".join(row.text(options.column).lower().split())
        if plain in seen:
            desk.drop(row, "the same text", f"as row {seen[plain]}")
            continue
        seen[plain] = row.key
        if index is not None:
            sketch = _sketch(plain)
            alike = index.query(sketch)
            if alike:
                desk.drop(row, "nearly the same text", f"as row {alike[0]}")
                continue
            index.insert(row.key, sketch)
        kept.append(row)
    return kept


def _index(threshold: float) -> Any:
    try:
        from datasketch import MinHashLSH
    except ImportError as error:
        raise ImportError("synthesize: near duplicates need datasketch; pip install 'fulgurite[synthesis]'") from error
    return MinHashLSH(threshold=threshold, num_perm=128)


def _sketch(text: str) -> Any:
    from datasketch import MinHash

    words = WORD.findall(text)
    sketch = MinHash(num_perm=128)
    for start in range(max(1, len(words) - _WIDTH + 1)):
        sketch.update(" ".join(words[start : start + _WIDTH]).encode())
    return sketch


register(Step("deduplicate", "leaves out rows whose text stands there already, or nearly", DeduplicateOptions, _run))
