"""Arithmetic tasks with worked steps; the answer is the number at the end, or an expression for the kind "target"."""

from __future__ import annotations

from fractions import Fraction

from fulgurite.data.playground.content.arithmetic import NotArithmetic, evaluate, final_number, numbers_used
from fulgurite.data.playground.content.lexicon import OBJECTS, PEOPLE, plural
from fulgurite.data.playground.draw import Draw
from fulgurite.data.playground.task import Task

__all__ = ["check_maths", "maths_task"]

_GAINS = ("finds", "buys", "is given", "makes")
_LOSSES = ("loses", "sells", "gives away", "breaks")


def maths_task(draw: Draw) -> Task:
    """One task of a random kind: sum, difference, product, steps, compare, sequence, story or target."""
    kind = draw.pick(("sum", "difference", "product", "steps", "compare", "sequence", "story", "story", "target"))
    if kind == "story":
        return _story(draw)
    if kind == "target":
        return _target(draw)
    if kind == "product":
        first, second = draw.integer(2, 9), draw.integer(2, 9)
        return Task("maths", kind, f"What is {first} * {second}?", str(first * second))
    if kind == "steps":
        first, second, third = draw.integer(2, 9), draw.integer(2, 9), draw.integer(1, 20)
        product = first * second
        work = f"{first} * {second} = {product}. {product} + {third} = {product + third}. #### {product + third}"
        return Task("maths", kind, f"What is {first} * {second} + {third}?", work)
    if kind == "compare":
        first = draw.integer(1, 99)
        second = draw.other(range(1, 100), first)
        return Task("maths", kind, f"Which is larger, {first} or {second}?", str(max(first, second)))
    if kind == "sequence":
        start, step = draw.integer(1, 20), draw.integer(1, 9)
        shown = ", ".join(str(start + step * i) for i in range(4))
        return Task("maths", kind, f"Which number comes next: {shown}?", str(start + step * 4))
    first, second = draw.integer(1, 49), draw.integer(1, 49)
    if kind == "difference":
        first, second = max(first, second), min(first, second)
        return Task("maths", kind, f"What is {first} - {second}?", str(first - second))
    return Task("maths", kind, f"What is {first} + {second}?", str(first + second))


def _story(draw: Draw) -> Task:
    person, thing = draw.pick(PEOPLE), plural(draw.pick(OBJECTS))
    have = draw.integer(3, 20)
    text = f"{person.name} has {have} {thing}. "
    work = ""
    for _ in range(draw.integer(1, 2)):
        if draw.chance(0.5) or have < 3:
            change, verb = draw.integer(1, 12), draw.pick(_GAINS)
        else:
            change, verb = -draw.integer(1, have - 1), draw.pick(_LOSSES)
        text += f"{person.pronoun.capitalize()} {verb} {abs(change)} {thing}. "
        work += f"{have} {'+' if change > 0 else '-'} {abs(change)} = {have + change}. "
        have += change
    question = f"How many {thing} does {person.name} have now?"
    return Task("maths", "story", text + question, f"{work}#### {have}")


def _target(draw: Draw) -> Task:
    first, second, third = draw.integer(2, 9), draw.integer(2, 9), draw.integer(2, 9)
    expression = draw.pick(
        (f"{first} * {second} + {third}", f"{first} + {second} + {third}", f"({first} + {second}) * {third}")
    )
    numbers = ", ".join(str(number) for number in draw.shuffled((first, second, third)))
    prompt = f"Write an expression that uses {numbers} once each and equals {evaluate(expression)}."
    return Task("maths", "target", prompt, expression)


def check_maths(task: Task, answer: str) -> bool:
    """Whether the answer is right: its final number equals the task's, or its expression meets the target.

    Args:
        task: a task of the domain maths.
        answer: the text to judge.
    """
    try:
        if task.kind == "target":
            same = numbers_used(answer) == numbers_used(task.answer)
            return same and evaluate(answer) == evaluate(task.answer)
        right: Fraction = final_number(task.answer)
        return final_number(answer) == right
    except NotArithmetic:
        return False
