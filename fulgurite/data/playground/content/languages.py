"""Small tasks in the five languages of UltraLink: sums, larger numbers, what colour a thing is, and functions to write.

The things of a language agree with its colours as they stand here (in Spanish, French and Russian all are masculine),
so that no sentence needs grammar of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fulgurite.data.playground.draw import Draw
from fulgurite.data.playground.task import Task

__all__ = ["KINDS", "LANGUAGES", "language_task"]


@dataclass(frozen=True)
class _Words:
    """A language: the wordings of its questions and answers, its things and its colours."""

    sum: str
    larger: str
    scene: str
    colour: str
    is_coloured: str
    function: str
    things: str
    colours: str


_WORDS = {
    "en": _Words(
        "What is {a} {sign} {b}?",
        "Which number is larger, {a} or {b}?",
        "The {one} is {red} and the {two} is {blue}.",
        "What colour is the {one}?",
        "The {one} is {red}.",
        "Write a Python function f(x) that returns {does}.",
        "book cup hat ball bag",
        "red black white yellow green blue",
    ),
    "zh": _Words(
        "{a} {sign} {b} 等于多少？",
        "{a} 和 {b} 哪个数更大？",
        "{one}是{red}的，{two}是{blue}的。",
        "{one}是什么颜色的？",
        "{one}是{red}的。",
        "请写一个 Python 函数 f(x)，返回 {does}。",
        "书 杯子 帽子 球 包",
        "红色 黑色 白色 黄色 绿色 蓝色",
    ),
    "es": _Words(
        "¿Cuánto es {a} {sign} {b}?",
        "¿Qué número es mayor, {a} o {b}?",
        "El {one} es {red} y el {two} es {blue}.",
        "¿De qué color es el {one}?",
        "El {one} es {red}.",
        "Escribe una función de Python f(x) que devuelva {does}.",
        "libro vaso sombrero zapato coche",
        "rojo negro blanco amarillo verde azul",
    ),
    "ru": _Words(
        "Сколько будет {a} {sign} {b}?",
        "Какое число больше, {a} или {b}?",
        "{One} {red}, а {two} {blue}.",
        "Какого цвета {one}?",
        "{One} {red}.",
        "Напиши функцию Python f(x), которая возвращает {does}.",
        "стол дом мяч шарф стакан",
        "красный чёрный белый жёлтый зелёный синий",
    ),
    "fr": _Words(
        "Combien font {a} {sign} {b} ?",
        "Quel nombre est le plus grand, {a} ou {b} ?",
        "Le {one} est {red} et le {two} est {blue}.",
        "De quelle couleur est le {one} ?",
        "Le {one} est {red}.",
        "Écris une fonction Python f(x) qui renvoie {does}.",
        "livre verre chapeau sac ballon",
        "rouge noir blanc jaune vert bleu",
    ),
}
LANGUAGES = tuple(_WORDS)
KINDS = ("code", "math", "chat_agnostic", "chat_specific")


def language_task(draw: Draw, language: str, kind: str) -> list[Task]:
    """The questions of one conversation; those of chat_specific are two about one scene, the others one.

    Args:
        draw: the stream.
        language: en, zh, es, ru or fr.
        kind: code, math, chat_agnostic or chat_specific, as in UltraLink's file names.
    """
    makers: dict[str, Callable[[Draw, _Words], list[Task]]] = {
        "code": _code,
        "math": _sum,
        "chat_agnostic": _larger,
        "chat_specific": _colours,
    }
    return makers[kind](draw, _WORDS[language])


def _sum(draw: Draw, words: _Words) -> list[Task]:
    sign = draw.pick(("+", "-", "*"))
    low, high = (2, 9) if sign == "*" else (1, 49)
    a, b = draw.integer(low, high), draw.integer(low, high)
    a, b = (max(a, b), min(a, b)) if sign == "-" else (a, b)
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return [Task("maths", "sum", words.sum.format(a=a, b=b, sign=sign), f"{a} {sign} {b} = {value}. #### {value}")]


def _larger(draw: Draw, words: _Words) -> list[Task]:
    a = draw.integer(1, 99)
    b = draw.other(range(1, 100), a)
    return [Task("maths", "compare", words.larger.format(a=a, b=b), str(max(a, b)))]


def _colours(draw: Draw, words: _Words) -> list[Task]:
    things = draw.sample(words.things.split(), 2)
    colours = draw.sample(words.colours.split(), 2)
    first, second = (
        {
            "one": things[i],
            "One": things[i].capitalize(),
            "two": things[1 - i],
            "red": colours[i],
            "blue": colours[1 - i],
        }
        for i in (0, 1)
    )
    scene = words.scene.format(**first)
    between = "" if scene.endswith("。") else " "
    return [
        Task("text", "reading", scene + between + words.colour.format(**first), words.is_coloured.format(**first)),
        Task("text", "reading", words.colour.format(**second), words.is_coloured.format(**second)),
    ]


def _code(draw: Draw, words: _Words) -> list[Task]:
    k, m = draw.integer(2, 9), draw.integer(2, 9)
    does = draw.pick((f"x + {k}", f"{k} * x - {m}", f"x * x + {k}", f"x % {k} == 0"))
    source = f"def f(x):\n    return {does}\n"
    return [Task("code", "function", words.function.format(does=does), source)]
