"""Arranges adapted modules as a grid: one line per layer, one column per kind of module.

`bert.encoder.layer.3.attention.self.query` is kind `query` of layer 3: the first number in a name is the layer, and the rest of the
name is the kind, shortened to as few of its last words as tell the kinds apart. If a model has two stacks (encoder and decoder),
the stack's name stands before the number.
"""

from collections.abc import Sequence
from typing import NamedTuple

from fulgurite.adapters import RankRow

__all__ = ["Grid", "arrange", "short_names"]


class Grid(NamedTuple):
    """Ranks left per layer (rows) and kind (columns), None where a layer lacks the module; `full`, the first rank."""

    layers: list[str]
    kinds: list[str]
    left: list[list[int | None]]
    full: int


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each dotted name by the fewest last words that no other name ends with.

    Args:
        names: different dotted names
    """
    short = {}
    for name in names:
        words = name.split(".")
        for count in range(1, len(words) + 1):
            tail = words[-count:]
            if sum(other.split(".")[-count:] == tail for other in names) == 1:
                break
        short[name] = ".".join(tail)
    return short


def _split(module: str) -> tuple[str, str, str]:
    """(stack, layer number, kind) of a module's name."""
    words = module.split(".")
    for position, word in enumerate(words):
        if word.isdigit() and position + 1 < len(words):
            return ".".join(words[:position]), word, ".".join(words[position + 1 :])
    return "", "", module


def arrange(rows: Sequence[RankRow]) -> Grid:
    """The grid of a rank table, in the model's order.

    Args:
        rows: the adapter's rank table
    """
    parts = [_split(row.module) for row in rows]
    stacks = short_names(list(dict.fromkeys(stack for stack, layer, _ in parts if layer)))
    kinds = short_names(list(dict.fromkeys(kind for *_, kind in parts)))
    labels = [(f"{stacks[stack]} {layer}" if len(stacks) > 1 else layer) if layer else "–" for stack, layer, _ in parts]
    layers = list(dict.fromkeys(labels))
    columns = list(kinds.values())
    left: list[list[int | None]] = [[None] * len(columns) for _ in layers]
    for row, label, (_, _, kind) in zip(rows, labels, parts, strict=True):
        left[layers.index(label)][columns.index(kinds[kind])] = row.nonzero
    return Grid(layers, columns, left, max((row.rank for row in rows), default=0))
