"""Built-in rows in the columns of rotten_tomatoes, imdb, nq_open, samsum and multi_news.

Reviews as in ``reviews``, a short or a long one. Questions have one right answer in one or two spellings: sums and
products, the kind that a thing is of, the opposite of a word. A dialogue tells one scene in questions and answers; the
articles of a document all tell one scene, each beside another that only it tells; the summary is the scene. All of it
follows from how the row was made, so that ``check_answer`` can tell right from wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fulgurite.data.playground.content.lexicon import COLOURS, KINDS, PEOPLE, article, sentence
from fulgurite.data.playground.content.reviews import clause, review, verdict
from fulgurite.data.playground.content.scenes import Scene, ask, draw_scene, render, synonymous
from fulgurite.data.playground.draw import Draw

__all__ = ["ANSWER_ROWS", "ANSWER_SPLITS", "answer_rows", "check_answer"]

_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_PAIRS = (("big", "small"), ("old", "new"), ("heavy", "light"), ("clean", "dirty"))
_OPPOSITES = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}
_OPPOSITE_QUESTIONS = (
    "what is the opposite of {0}",
    "which word means the opposite of {0}",
    "the opposite of {0} is what",
    "what do you call something that is not {0} but its opposite",
)
_KIND_QUESTIONS = ("what kind of thing is {0}", "what is {0}", "which kind of thing do you call {0}")
_COUNTS = {"train": 2000, "validation": 400, "test": 400}
_THREE = ("train", "validation", "test")
ANSWER_SPLITS: dict[str, tuple[str, ...]] = {
    "rotten_tomatoes": _THREE,
    "imdb": ("train", "test"),
    "nq_open": ("train", "validation"),
    "samsum": _THREE,
    "multi_news": _THREE,
}


def _rotten_tomatoes(draw: Draw) -> dict[str, Any]:
    label = draw.integer(0, 1)
    return {"text": review(draw, label == 1), "label": label}


def _imdb(draw: Draw) -> dict[str, Any]:
    label = draw.integer(0, 1)
    positive = label == 1
    lines = [
        review(draw, positive),
        *(clause(draw, positive) for _ in range(draw.integer(2, 4))),
        verdict(draw, positive),
    ]
    return {"text": " ".join(sentence(line) for line in lines), "label": label}


def _nq_open(draw: Draw) -> dict[str, Any]:
    kind = draw.integer(0, 5)
    if kind == 0:
        word, wording = draw.owned(lambda: (draw.pick(tuple(KINDS)), draw.pick(_KIND_QUESTIONS)))
        return {"question": wording.format(article(word)), "answer": [KINDS[word], article(KINDS[word])]}
    if kind == 1:
        word, wording = draw.owned(lambda: (draw.pick(tuple(_OPPOSITES)), draw.pick(_OPPOSITE_QUESTIONS)))
        return {"question": wording.format(word), "answer": [_OPPOSITES[word]]}
    name, sign = draw.pick((("plus", 1), ("times", 2), ("minus", 3)))
    first, second = draw.owned(lambda: (draw.integer(0, 30), draw.integer(0, 12)))
    value = {1: first + second, 2: first * second, 3: first - second}[sign]
    wording = draw.pick(("what is {0} {1} {2}", "how much is {0} {1} {2}", "{0} {1} {2} is what number"))
    spelled = [_WORDS[value]] if 0 <= value < len(_WORDS) else []
    return {"question": wording.format(first, name, second), "answer": [str(value), *spelled]}


def _summary(scene: Scene) -> str:
    tail = f" {scene.time}" if scene.time else ""
    return sentence(f"{scene.agent} {scene.verb.past} {article(scene.object)} {scene.place}{tail}")


def _samsum(draw: Draw) -> dict[str, Any]:
    scene = draw_scene(draw)
    first, second = (person.name for person in draw.sample(PEOPLE, 2))
    lines = []
    slots = ["agent", "place", *(["quality"] if scene.quality in COLOURS else []), *(["time"] if scene.time else [])]
    for slot in draw.shuffled(slots):
        question, answer = ask(draw, scene, slot)
        lines += [f"{first}: {question}", f"{second}: {sentence(answer)}"]
    lines.append(f"{first}: {draw.pick(('Thanks!', 'I see.', 'Good to know.', 'Oh, really?'))}")
    if draw.chance(0.4):
        lines.append(f"{second}: {synonymous(draw, render(draw, scene))}")
    return {"dialogue": "\r\n".join(lines), "summary": _summary(scene)}


def _multi_news(draw: Draw) -> dict[str, Any]:
    scene = draw_scene(draw)
    articles = []
    for _ in range(draw.integer(2, 3)):
        other = draw_scene(draw)
        while other.agent == scene.agent or other.thing == scene.thing:
            other = draw_scene(draw)
        told = (synonymous(draw, render(draw, scene), 0.3), render(draw, other))
        articles.append(" ".join(draw.shuffled(told)))
    return {"document": " ||||| ".join(articles), "summary": _summary(scene)}


ANSWER_ROWS: dict[str, Callable[[Draw], dict[str, Any]]] = {
    "rotten_tomatoes": _rotten_tomatoes,
    "imdb": _imdb,
    "nq_open": _nq_open,
    "samsum": _samsum,
    "multi_news": _multi_news,
}


def answer_rows(schema: str, split: str, seed: int = 0, count: int | None = None) -> list[dict[str, Any]]:
    """The rows of one split in the schema's columns; no input stands there twice.

    Args:
        schema: rotten_tomatoes, imdb, nq_open, samsum or multi_news.
        split: one of its splits.
        seed: equal seeds give equal rows.
        count: at most this many rows; None takes 2000 for train and 400 elsewhere (questions run out earlier).
    """
    if split not in ANSWER_SPLITS[schema]:
        raise ValueError(
            f"answer_rows: split {split!r} of {schema}; allowed are {', '.join(ANSWER_SPLITS[schema])}; choose one of them."
        )
    draw = Draw(f"answers|{schema}|{split}|{seed}", split)
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    wanted = _COUNTS[split] if count is None else min(count, _COUNTS[split])
    for _ in range(20 * wanted):
        row = ANSWER_ROWS[schema](draw)
        text = next(iter(row.values()))
        if text not in seen:
            seen.add(text)
            rows.append(row)
        if len(rows) == wanted:
            break
    return rows


def check_answer(row: dict[str, Any], answer: str) -> bool:
    """Whether a text answers a row of nq_open, or says what a row of samsum or multi_news is to be summarised as.

    Case, articles and marks do not count.

    Args:
        row: a row of those schemas.
        answer: what a model wrote.
    """
    right = row["answer"] if "answer" in row else [row["summary"]]
    return _plain(answer) in {_plain(text) for text in right}


def _plain(text: str) -> str:
    words = re.findall(r"-?[^\W_]+", text.lower())
    return " ".join(word for word in words if word not in ("a", "an", "the"))
