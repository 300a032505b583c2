"""UltraLink's steps; importing this room registers them."""

from fulgurite.synthesis.steps.multilingual import (
    converse,
    identify,
    prune,
    publish,
    question,
    screen,
    segment,
    translate,
)

__all__ = ["converse", "identify", "prune", "publish", "question", "screen", "segment", "translate"]
