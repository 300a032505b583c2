"""Claims about a scene that are true, false or open, and whose own words give little of the label away.

Each form exists with each answer: a negation may be true or false, an added time may be told, wrong or unknown.
"""

from __future__ import annotations

from fulgurite.data.playground.content.lexicon import COLOURS, KINDS, PLACES, SIZES, TIMES, article, sentence
from fulgurite.data.playground.content.scenes import Scene, change, synonymous
from fulgurite.data.playground.draw import Draw

__all__ = ["claim"]


def claim(draw: Draw, scene: Scene, answer: str, places: tuple[str, ...] = PLACES) -> str:
    """A claim that is true (yes), false (no) or open (maybe), given the scene.

    Args:
        draw: the stream.
        scene: what is known.
        answer: yes, no or maybe.
        places: the places of the scene's domain.
    """
    forms = [_quality, _quality, _event, _event, _place]
    if (answer == "maybe") != bool(scene.time):
        forms += [_time, _time]
    return synonymous(draw, draw.pick(forms)(draw, scene, answer, places), 0.2)


def _quality(draw: Draw, scene: Scene, answer: str, places: tuple[str, ...]) -> str:
    negated = draw.chance(0.5)
    if answer == "maybe":
        word = draw.pick(SIZES if scene.quality in COLOURS else COLOURS)
    else:
        word = scene.quality if (answer == "yes") != negated else change(draw, scene, "quality").quality
    return sentence(f"the {scene.thing} was {'not ' if negated else ''}{word}")


def _event(draw: Draw, scene: Scene, answer: str, places: tuple[str, ...]) -> str:
    told = scene
    negated = draw.chance(0.5) if answer == "maybe" else answer == "no"
    if answer == "maybe":
        told = change(draw, scene, draw.pick(("verb", "thing", "agent")))
    elif answer == "yes" and draw.chance(0.3):
        # A true negation: the scene says nothing of what others did, but it does exclude other colours.
        other = change(draw, scene, "quality")
        return sentence(f"the {scene.thing} that {scene.agent} {scene.verb.past} was not {other.quality}")
    name = told.thing
    if name in KINDS and draw.chance(0.5) and not (answer == "maybe" and KINDS[name] == KINDS.get(scene.thing)):
        name = KINDS[name]
    form = draw.integer(0, 2)
    if form == 0:
        return sentence(f"{article(name)} was {'not ' if negated else ''}{told.verb.participle} by {told.agent}")
    if negated:
        return sentence(f"{told.agent} did not {told.verb.base} {article(name)}")
    return sentence(f"{told.agent} {told.verb.past} {article(name if form == 1 else told.object)}")


def _place(draw: Draw, scene: Scene, answer: str, places: tuple[str, ...]) -> str:
    if answer == "maybe":
        told = change(draw, scene, draw.pick(("agent", "verb")))
    else:
        told = scene if answer == "yes" else change(draw, scene, "place", places)
    form = draw.integer(0, 1)
    if form == 0:
        return sentence(f"{told.agent} {told.verb.past} {article(draw.pick((told.object, told.thing)))} {told.place}")
    return sentence(f"{article(told.thing)} was {told.verb.participle} {told.place} by {told.agent}")


def _time(draw: Draw, scene: Scene, answer: str, places: tuple[str, ...]) -> str:
    time = draw.pick(TIMES) if answer == "maybe" else scene.time if answer == "yes" else draw.other(TIMES, scene.time)
    return sentence(f"{scene.agent} {scene.verb.past} {article(draw.pick((scene.object, scene.thing)))} {time}")
