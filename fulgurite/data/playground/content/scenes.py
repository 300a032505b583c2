"""Scenes: one event with slots, the ways to say it, the questions about it, and what follows from it.

A scene is the meaning behind most text of the playground. Two sentences say the same when they render the same scene,
differ when one slot differs, and entail each other when one leaves slots out; the labels of the pair tasks follow from
that and not from the wording.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fulgurite.data.playground.content.lexicon import (
    COLOURS,
    OBJECTS,
    PEOPLE,
    PLACES,
    ROLES,
    SIZES,
    SYNONYMS,
    TIMES,
    TRANSITIVE,
    Verb,
    article,
    sentence,
)
from fulgurite.data.playground.draw import Draw

__all__ = ["SLOTS", "Scene", "ask", "change", "draw_scene", "render", "synonymous"]

SLOTS = ("agent", "verb", "quality", "thing", "place")


@dataclass(frozen=True)
class Scene:
    """Somebody did something to a thing somewhere, at some time; quality and time may be empty."""

    agent: str
    verb: Verb
    quality: str
    thing: str
    place: str
    time: str = ""

    @property
    def object(self) -> str:
        """The thing with its quality: red box."""
        return f"{self.quality} {self.thing}".strip()


def draw_scene(draw: Draw, agents: tuple[str, ...] | None = None, places: tuple[str, ...] = PLACES) -> Scene:
    """A scene whose agent, verb, thing and place are a combination of the stream's split.

    Args:
        draw: the stream.
        agents: who may act; None means the names.
        places: where it may happen.
    """
    names = agents or tuple(person.name for person in PEOPLE)
    agent, verb, thing, place = draw.owned(
        lambda: (draw.pick(names), draw.pick(TRANSITIVE).base, draw.pick(OBJECTS), draw.pick(places))
    )
    quality = draw.pick(COLOURS) if draw.chance(0.6) else draw.pick(SIZES)
    time = draw.pick(TIMES) if draw.chance(0.3) else ""
    return Scene(agent, next(entry for entry in TRANSITIVE if entry.base == verb), quality, thing, place, time)


def change(draw: Draw, scene: Scene, slot: str, places: tuple[str, ...] = PLACES) -> Scene:
    """The scene with another value in one slot; a quality changes within its class, so that both exclude each other.

    Args:
        draw: the stream.
        scene: the scene to change.
        slot: one of ``SLOTS``, or time.
        places: the places to choose from.
    """
    if slot == "agent":
        named = any(person.name == scene.agent for person in PEOPLE)
        words = tuple(person.name for person in PEOPLE) if named else tuple(f"the {role}" for role in ROLES)
        return replace(scene, agent=draw.other(words, scene.agent))
    if slot == "verb":
        different = tuple(verb for verb in TRANSITIVE if SYNONYMS.get(verb.base) != scene.verb.base)
        return replace(scene, verb=draw.other(different, scene.verb))
    if slot == "quality":
        if scene.quality in COLOURS:
            return replace(scene, quality=draw.other(COLOURS, scene.quality))
        opposite = {"big": "small", "old": "new", "heavy": "light", "clean": "dirty", "cheap": "fine"}
        opposite |= {right: left for left, right in opposite.items()}
        return replace(scene, quality=opposite[scene.quality])
    if slot == "thing":
        return replace(scene, thing=draw.other(OBJECTS, scene.thing))
    if slot == "time":
        return replace(scene, time=draw.other(TIMES, scene.time))
    return replace(scene, place=draw.other(places, scene.place))


def synonymous(draw: Draw, text: str, probability: float = 0.7) -> str:
    """The text with words replaced by their synonyms."""
    words = []
    for word in text.split(" "):
        known = SYNONYMS.get(word)
        words.append(known if known and draw.chance(probability) else word)
    return " ".join(words).replace("a image", "an image").replace("an picture", "a picture")


def render(draw: Draw, scene: Scene, form: str = "any") -> str:
    """A sentence that says the scene.

    Args:
        draw: the stream.
        scene: what to say.
        form: active, passive, fronted, or any of them.
    """
    if form == "any":
        form = draw.pick(("active", "active", "passive", "fronted"))
    tail = f" {scene.time}" if scene.time else ""
    thing = article(scene.object)
    if form == "passive":
        return sentence(f"{thing} was {scene.verb.participle} by {scene.agent} {scene.place}{tail}")
    if form == "fronted":
        return sentence(f"{scene.place}, {scene.agent} {scene.verb.past} {thing}{tail}")
    return sentence(f"{scene.agent} {scene.verb.past} {thing} {scene.place}{tail}")


def ask(draw: Draw, scene: Scene, slot: str, wording: int | None = None) -> tuple[str, str]:
    """A question about one slot and its answer.

    Args:
        draw: the stream.
        scene: what the question is about.
        slot: agent, thing, quality (a colour), place or time.
        wording: 0 or 1 picks one of two wordings of the same question; None draws it.
    """
    second = draw.chance(0.5) if wording is None else wording == 1
    agent, verb, thing = scene.agent, scene.verb, scene.object
    if slot == "agent":
        first_words, second_words = f"who {verb.past} the {thing}", f"by whom was the {thing} {verb.participle}"
        return sentence(second_words if second else first_words, "?"), agent
    if slot == "thing":
        words = f"which thing was {verb.participle} by {agent}" if second else f"what did {agent} {verb.base}"
        return sentence(f"{words} {scene.place}", "?"), article(thing)
    if slot == "quality":
        words = f"which colour has the {scene.thing} of {agent}" if second else f"what colour is the {scene.thing}"
        return sentence(words, "?"), scene.quality
    if slot == "time":
        words = f"at what time was the {thing} {verb.participle} by {agent}"
        words = words if second else f"when did {agent} {verb.base} the {thing}"
        return sentence(words, "?"), scene.time or draw.pick(TIMES)
    words = f"in which place was the {thing} {verb.participle} by {agent}"
    return sentence(words if second else f"where did {agent} {verb.base} the {thing}", "?"), scene.place
