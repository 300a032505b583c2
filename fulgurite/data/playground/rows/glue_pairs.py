"""Rows of the pair tasks, made from scenes: what two sentences share, and what follows from what."""

from __future__ import annotations

from dataclasses import replace

from fulgurite.data.playground.content.claims import claim
from fulgurite.data.playground.content.lexicon import (
    COLOURS,
    OBJECTS,
    PEOPLE,
    PLACES,
    PLACES_ELSEWHERE,
    ROLES,
    TIMES,
    sentence,
)
from fulgurite.data.playground.content.scenes import SLOTS, ask, change, draw_scene, render, synonymous
from fulgurite.data.playground.draw import Draw

__all__ = ["mnli", "mrpc", "qnli", "qqp", "rte", "stsb", "wnli"]

_Pair = tuple[tuple[str, str], float]

# How much of the meaning a slot carries; they add up to 5, the score of two sentences that say the same.
_WEIGHTS = {"agent": 1.0, "verb": 1.2, "quality": 0.6, "thing": 1.4, "place": 0.8}
# A reason that can only be about the first (True) or the second thing: the box did not fit into the bag.
_REASONS = (
    ("the {a} did not fit into the {b} because it was too {w}", ("big", True), ("small", False)),
    ("the {a} broke the {b} because it was too {w}", ("heavy", True), ("weak", False)),
    ("the {a} hid the {b} because it was so {w}", ("large", True), ("little", False)),
    ("the {a} fell off the {b} because it was {w}", ("round", True), ("too narrow", False)),
)
_HUMAN_REASONS = (
    ("{a} thanked {b} because {p} had {w}", ("been lost", True), ("helped", False)),
    ("{a} asked {b} for help because {p} was {w}", ("lost", True), ("strong", False)),
    ("{a} carried the bag for {b} because {p} was {w}", ("strong", True), ("tired", False)),
)


def mrpc(draw: Draw, label: int) -> _Pair:
    """Two sentences that say the same in other words (1), or differ in one slot (0)."""
    scene = draw_scene(draw)
    second = scene if label else change(draw, scene, draw.pick(SLOTS))
    first_text = render(draw, scene)
    text = synonymous(draw, render(draw, second))
    while text == first_text:
        text = synonymous(draw, render(draw, second))
    return (first_text, text), label


def qqp(draw: Draw, label: int) -> _Pair:
    """Two questions about the same (1), or about another slot or another scene (0)."""
    scene = draw_scene(draw)
    slots = ("agent", "thing", "place", "time")
    slot, wording = draw.pick(slots), draw.integer(0, 1)
    first = ask(draw, scene, slot, wording)[0]
    if label:
        return (first, synonymous(draw, ask(draw, scene, slot, 1 - wording)[0], 0.5)), label
    if draw.chance(0.5):
        return (first, ask(draw, scene, draw.other(slots, slot))[0]), label
    # Only what the question says may differ, else both ask the same.
    said = {"agent": ("verb", "quality", "thing"), "thing": ("agent", "verb", "place")}
    changed = change(draw, scene, draw.pick(said.get(slot, ("agent", "verb", "quality", "thing"))))
    return (first, synonymous(draw, ask(draw, changed, slot, 1 - wording)[0], 0.5)), label


def stsb(draw: Draw, label: int) -> _Pair:
    """Two sentences and how much they share, from 0 to 5; the given label is not used."""
    scene = second = draw_scene(draw)
    for slot in draw.sample(SLOTS, draw.integer(0, len(SLOTS))):
        second = change(draw, second, slot)
    score = sum(weight for slot, weight in _WEIGHTS.items() if getattr(scene, slot) == getattr(second, slot))
    return (render(draw, scene), synonymous(draw, render(draw, second), 0.4)), round(score, 3)


def mnli(draw: Draw, label: int, elsewhere: bool = False) -> _Pair:
    """A premise and a claim that follows (0), is open (1) or is contradicted (2).

    Args:
        draw: the stream.
        label: the label that the row is to have.
        elsewhere: scenes of the other domain (people by their role, other places), for the mismatched splits.
    """
    places = PLACES_ELSEWHERE if elsewhere else PLACES
    scene = draw_scene(draw, tuple(f"the {role}" for role in ROLES) if elsewhere else None, places)
    return (render(draw, scene), claim(draw, scene, ("yes", "maybe", "no")[label], places)), label


def rte(draw: Draw, label: int) -> _Pair:
    """A text of two sentences and a claim that follows from it (0) or not (1)."""
    scene, other = draw_scene(draw), draw_scene(draw)
    while other.agent == scene.agent or other.thing == scene.thing:
        other = draw_scene(draw)
    told = draw.shuffled((render(draw, scene), render(draw, other)))
    answer = "yes" if label == 0 else draw.pick(("no", "maybe"))
    return (" ".join(told), claim(draw, scene, answer)), label


def qnli(draw: Draw, label: int) -> _Pair:
    """A question and a sentence that answers it (0) or not (1)."""
    scene = draw_scene(draw)
    slot = draw.pick(("agent", "place", "time", "quality" if scene.quality in COLOURS else "place"))
    question = ask(draw, scene, slot)[0]
    told = replace(scene, time=draw.pick(TIMES) if slot == "time" or draw.chance(0.5) else "")
    if label and (slot == "agent" or draw.chance(0.4)):
        told = change(draw, told, "thing" if slot == "quality" else draw.pick(("verb", "thing")))
    elif label and slot == "time":
        told = replace(told, time="")
    elif label and slot == "place":
        told = replace(told, place=told.time or draw.pick(TIMES), time="")
    elif label:
        told = replace(told, quality="")
    return (question, render(draw, told, draw.pick(("active", "passive")))), label


def wnli(draw: Draw, label: int) -> _Pair:
    """A sentence with a pronoun and the sentence with it resolved, rightly (1) or not (0)."""
    if draw.chance(0.5):
        frame, *endings = draw.pick(_REASONS)
        first, second = draw.owned(lambda: (draw.pick(OBJECTS), draw.pick(OBJECTS)))
        while first == second:
            first, second = draw.owned(lambda: (draw.pick(OBJECTS), draw.pick(OBJECTS)))
        first, second, pronoun, link = f"the {first}", f"the {second}", "it", "was"
        frame = frame.replace("the {a}", "{a}").replace("the {b}", "{b}")
    else:
        frame, *endings = draw.pick(_HUMAN_REASONS)
        names = draw.pick((PEOPLE[:12], PEOPLE[12:]))
        first, second = draw.owned(lambda: tuple(person.name for person in draw.sample(names, 2)))
        pronoun, link = names[0].pronoun, "had" if " had " in frame else "was"
    word, about_first = draw.pick(endings)
    extra = next((part for part in ("too ", "so ") if f"{part}{{w}}" in frame), "")
    subject = first if about_first == (label == 1) else second
    text = frame.format(a=first, b=second, p=pronoun, w=word)
    return (sentence(text), sentence(f"{subject} {link} {extra}{word}")), label
