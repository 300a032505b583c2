"""The kinds of steps; importing this room registers them."""

from fulgurite.synthesis.steps import (
    agree,
    chats,
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
    "chats",
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
