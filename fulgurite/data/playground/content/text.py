"""Text tasks with a closed set of answers, and the running text that the tiny base is trained on."""

from __future__ import annotations

import re

from fulgurite.data.playground.content.claims import claim
from fulgurite.data.playground.content.lexicon import (
    ADVERBS,
    ANIMALS,
    COLOURS,
    FEELINGS,
    FILMS,
    INTRANSITIVE,
    KINDS,
    OBJECTS,
    PEOPLE,
    PLACES,
    ROLES,
    article,
    plural,
    pronoun,
    sentence,
)
from fulgurite.data.playground.content.reviews import clause, review, verdict
from fulgurite.data.playground.content.scenes import SLOTS, ask, change, draw_scene, render, synonymous
from fulgurite.data.playground.draw import Draw
from fulgurite.data.playground.task import Task

__all__ = ["check_text", "describe", "paired", "story", "text_task"]


def text_task(draw: Draw) -> Task:
    """One task of a random kind: sentiment, same (yes or no), follows (yes, no or maybe), or reading."""
    kind = draw.pick(("sentiment", "sentiment", "same", "follows", "follows", "reading"))
    if kind == "sentiment":
        positive = draw.chance(0.5)
        prompt = f"Is this review good or bad? {review(draw, positive)}"
        return Task("text", kind, prompt, "good" if positive else "bad")
    scene = draw_scene(draw)
    if kind == "same":
        same = draw.chance(0.5)
        second = scene if same else change(draw, scene, draw.pick(SLOTS))
        prompt = f"Do both say the same? {render(draw, scene)} {synonymous(draw, render(draw, second))}"
        return Task("text", kind, prompt, "yes" if same else "no")
    if kind == "follows":
        answer = draw.pick(("yes", "no", "maybe"))
        return Task("text", kind, f"{render(draw, scene)} Is it true? {claim(draw, scene, answer)}", answer)
    other = draw_scene(draw)
    slot = draw.pick(("agent", "place", "quality", "thing"))
    if slot == "quality" and scene.quality not in COLOURS:
        slot = "place"
    if other.thing == scene.thing:
        other = change(draw, other, "thing")
    question, answer = ask(draw, scene, slot)
    told = draw.shuffled((render(draw, scene), render(draw, other)))
    return Task("text", "reading", f"{' '.join(told)} {question}", answer)


def story(draw: Draw) -> str:
    """Some sentences about one or two people and things, often with a question about them."""
    scene = draw_scene(draw)
    lines = [render(draw, scene)]
    she = pronoun(scene.agent)
    for _ in range(draw.integer(1, 3)):
        form = draw.integer(0, 5)
        if form == 0:
            feeling, done = draw.pick(FEELINGS), draw.pick(INTRANSITIVE).past
            lines.append(sentence(f"{she} was {feeling} and {done} {draw.pick(ADVERBS)}"))
        elif form == 1:
            where = draw.pick(("on", "under", "behind", "near"))
            lines.append(sentence(f"the {scene.thing} was {where} the {draw.pick(OBJECTS)}"))
        elif form == 2:
            lines.append(sentence(f"{article(draw.pick(ANIMALS))} {draw.pick(INTRANSITIVE).past} {scene.place}"))
        elif form == 3:
            lines.append(claim(draw, scene, "yes"))
        elif form == 4:
            said, again = lines[0], lines[0]
            while again == said:
                again = synonymous(draw, render(draw, scene))
            lines.append(f"In other words, {_lower(again)}")
        else:
            second = draw_scene(draw)
            lines.append(render(draw, second, "active"))
    if draw.chance(0.4):
        slot = "quality" if scene.quality in COLOURS and draw.chance(0.4) else draw.pick(("agent", "place"))
        question, answer = ask(draw, scene, slot)
        lines.append(f"{question} {sentence(answer)}")
    return " ".join(lines)


def describe(draw: Draw) -> str:
    """A review of several clauses with one polarity and a verdict, or general statements about things and people."""
    if draw.chance(0.6):
        positive = draw.chance(0.5)
        lines = [review(draw, positive), *(clause(draw, positive) for _ in range(draw.integer(0, 2)))]
        lines.append(verdict(draw, positive))
        if draw.chance(0.4):
            lines.append(f"{'a good' if positive else 'a bad'} {draw.pick(FILMS)}")
        if draw.chance(0.5):
            return " ".join(sentence(line) for line in lines)
        return " . ".join(lines)
    lines = []
    for _ in range(draw.integer(2, 4)):
        word, animal = draw.pick(tuple(KINDS)), draw.pick(ANIMALS)
        verb, role = draw.pick(INTRANSITIVE), draw.pick(ROLES)
        lines.append(
            draw.pick(
                (
                    sentence(f"{article(word)} is {article(KINDS[word])}"),
                    sentence(f"{plural(word)} are {plural(KINDS[word])}"),
                    sentence(f"the {animal} {verb.third} {draw.pick(ADVERBS)} but the {plural(animal)} {verb.base}"),
                    sentence(f"the {role} does not {verb.base} {draw.pick(PLACES)}"),
                    sentence(f"the {plural(role)} are {draw.pick(FEELINGS)} because they {verb.base}"),
                    sentence(f"the {role} is {verb.ing} and so are the {plural(animal)}"),
                )
            )
        )
    return " ".join(lines)


def paired(draw: Draw) -> str:
    """Two sentences in the form in which the tokenizer joins pairs, and what the second is to the first."""
    scene = draw_scene(draw)
    if draw.chance(0.5):
        answer = draw.pick(("yes", "no", "maybe"))
        return f"{render(draw, scene)}<|end|>{claim(draw, scene, answer)}<|end|>{answer}"
    same = draw.chance(0.5)
    second = scene if same else change(draw, scene, draw.pick(SLOTS))
    answer = "same" if same else "different"
    return f"{render(draw, scene)}<|end|>{synonymous(draw, render(draw, second))}<|end|>{answer}"


def check_text(task: Task, answer: str) -> bool:
    """Whether the answer says the same word or phrase, apart from case, articles and marks.

    Args:
        task: a task of the domain text.
        answer: the text to judge.
    """
    return _plain(answer) == _plain(task.answer)


def _plain(text: str) -> str:
    words = re.findall(r"[^\W\d_]+", text.lower())
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def _lower(text: str) -> str:
    keep = any(text.startswith(person.name) for person in PEOPLE)
    return text if keep else text[0].lower() + text[1:]
