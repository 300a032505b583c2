"""The kinds of steps; importing this room registers them."""

from fulgurite.synthesis.steps import (
    agree,
    critique,
    decontaminate,
    deduplicate,
    draw,
    filter,
    judge,
    multilingual,
    pair,
    rate,
    trees,
    write,
)

__all__ = [
    "agree",
    "critique",
    "decontaminate",
    "deduplicate",
    "draw",
    "filter",
    "judge",
    "multilingual",
    "pair",
    "rate",
    "trees",
    "write",
]
