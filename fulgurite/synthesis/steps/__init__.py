"""The kinds of steps; importing this room registers them."""

from fulgurite.synthesis.steps import decontaminate, deduplicate, trees

__all__ = ["decontaminate", "deduplicate", "trees"]
