"""Acceptability: grammatical sentences, and the same with one fault of agreement, order, form or a missing word."""

from __future__ import annotations

from fulgurite.data.playground.content.lexicon import (
    ADVERBS,
    ANIMALS,
    INTRANSITIVE,
    OBJECTS,
    PLACES,
    ROLES,
    TRANSITIVE,
    Verb,
    article,
    plural,
    sentence,
)
from fulgurite.data.playground.draw import Draw

__all__ = ["cola"]

# Sheep is left out: its plural looks like its singular, so its agreement cannot be judged.
_SUBJECTS = ROLES + tuple(animal for animal in ANIMALS if animal != "sheep")


def cola(draw: Draw, label: int) -> tuple[tuple[str], int]:
    """A sentence, acceptable (1) or not (0).

    Args:
        draw: the stream; subject, verb and the second noun are a combination of its split.
        label: the label that the row is to have.
    """
    subject, base, thing = draw.owned(lambda: (draw.pick(_SUBJECTS), draw.pick(TRANSITIVE).base, draw.pick(OBJECTS)))
    verb = next(entry for entry in TRANSITIVE if entry.base == base)
    maker = draw.pick((_agreement, _agreement, _helper, _order, _missing, _reference))
    return (sentence(maker(draw, subject, verb, thing, label == 1)),), label


def _agreement(draw: Draw, subject: str, verb: Verb, thing: str, right: bool) -> str:
    many = draw.chance(0.5)
    noun = plural(subject) if many else subject
    number = "these" if many else "this"
    form = verb.base if many == right else verb.third
    place = f" {draw.pick(PLACES)}" if draw.chance(0.5) else ""
    # A noun of the other number between subject and verb takes the easy way out, the neighbouring word, away.
    between = ""
    if draw.chance(0.4):
        between = f" near the {plural(thing) if not many else thing}"
    return f"{number} {noun}{between} {form} {article(draw.other(OBJECTS, thing))}{place}"


def _helper(draw: Draw, subject: str, verb: Verb, thing: str, right: bool) -> str:
    helper, good, bad = draw.pick(
        (
            ("is", verb.ing, verb.base),
            ("has", verb.participle, verb.ing),
            ("will", verb.base, verb.third),
            ("did not", verb.base, verb.ing),
            ("can", verb.base, verb.third),
        )
    )
    return f"the {subject} {helper} {good if right else bad} the {thing} {draw.pick(PLACES)}"


def _order(draw: Draw, subject: str, verb: Verb, thing: str, right: bool) -> str:
    place = draw.pick(PLACES)
    if right:
        event = f"the {subject} {verb.past} the {thing}"
        return draw.pick((f"{event} {place}", f"{place} {event}"))
    return draw.pick(
        (
            f"{subject} the {verb.past} the {thing} {place}",
            f"the {subject} the {thing} {verb.past} {place}",
            f"{verb.past} the {subject} the {thing} {place}",
            f"the {subject} {verb.past} {thing} the {place}",
        )
    )


def _missing(draw: Draw, subject: str, verb: Verb, thing: str, right: bool) -> str:
    tail = draw.pick(INTRANSITIVE).past
    if right:
        return f"the {subject} who {verb.past} the {thing} {tail} {draw.pick(ADVERBS + PLACES)}"
    return draw.pick(
        (
            f"the {subject} who {verb.past} the {thing} {draw.pick(ADVERBS + PLACES)}",
            f"the {subject} who the {thing} {tail} {draw.pick(ADVERBS)}",
            f"who {verb.past} the {thing} {tail} {draw.pick(ADVERBS)}",
        )
    )


def _reference(draw: Draw, subject: str, verb: Verb, thing: str, right: bool) -> str:
    many = draw.chance(0.5)
    noun = plural(subject) if many else subject
    word = "themselves" if many == right else "itself" if subject in ANIMALS else "himself"
    return f"the {noun} {verb.past} the {thing} for {word}"
