"""Ratings and scores out of what a judge wrote, in the form that was asked for or in another one.

A judge rates several texts in one answer, under a heading for each. Headings in other words, bold marks, JSON, "4/5", "four" and
"N/A" are understood; what is not understood is a reason, never a guess. The published parsers' faults are not repeated: an answer
with more or fewer blank lines than texts is no error, a score of 1 stays 1 (theirs became 10), 7.5 stays 7.5 (theirs became 7), and
a number outside the scale is no score (theirs were multiplied by ten below 1).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["NOT_APPLICABLE", "Rated", "Unread", "critique_in", "ratings_in", "score_in"]

NOT_APPLICABLE = "N/A"
_WORDS = {word: n for n, word in enumerate("zero one two three four five six seven eight nine ten".split())}
_HEADING = re.compile(
    r"^[\W_]*(?:(?:the\s+)?(?:output|rating|ratings|annotation|assessment|evaluation|judgement)\s+)?(?:for|of|on)?\s*"
    r"(?:the\s+)?(?:text|answer|completion|response|output)\s*(?:no\.?|number|#)?\s*<?(\d+)>?\b[\W_]*?",
    re.IGNORECASE | re.MULTILINE,
)
_GAP = r"[\s*_\])>]*[:=\-–]?[\s*_\[(<]*"  # between a heading and what it heads
_RATING = re.compile(rf"^[\W_]*(?:overall\s+)?(?:rating|score)\b{_GAP}([^\n]+)", re.IGNORECASE | re.MULTILINE)
_PART = re.compile(
    r"^[\W_]*(type|rationale for rating|rationale|rating|score)\b[\s*_]*[:=][\s*_]*", re.IGNORECASE | re.MULTILINE
)
_OVERALL = re.compile(
    r"^[\W_]*(?:overall|final|total)[\W_]*(?:score|rating)\b[\W_]*?[:=\-–]?[\s*_]*", re.IGNORECASE | re.MULTILINE
)
_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_NONE = re.compile(r"(?:n\s*/\s*a|na|none|not applicable|null)\b", re.IGNORECASE)


class Unread(ValueError):
    """A text that holds no rating; its message is the reason that is counted."""


@dataclass(frozen=True)
class Rated:
    """What a judge says of one text.

    Attributes:
        rating: "1" to "5", or "N/A".
        rationale: why.
        kinds: what was found, where kinds are asked for: numbers as texts, or "None".
        reason: of the rating, where kinds are asked for.
    """

    rating: str
    rationale: str = ""
    kinds: tuple[str, ...] = ("None",)
    reason: str = ""


def score_in(text: str, low: float, high: float) -> float | None:
    """The number that a text begins with as a score; None for "N/A".

    Args:
        text: what follows "Rating:" or "Overall Score:".
        low: the scale's lowest score.
        high: its highest.

    Raises:
        Unread: no number, a number outside the scale, or one of another scale.
    """
    plain = text.strip().strip("*_`\"'[](){}<> \t").strip()
    if _NONE.match(plain):
        return None
    word = re.match(r"[A-Za-z]+", plain)
    if word is not None and word[0].lower() in _WORDS:
        plain = str(_WORDS[word[0].lower()]) + plain[word.end() :]
    found = re.match(_NUMBER, plain)
    if found is None:
        raise Unread("no number where the rating should be")
    rest = plain[found.end() :].strip("*_`\"' \t")
    of = re.match(rf"(?:/|out\s+of|of)\s*({_NUMBER})", rest, re.IGNORECASE)
    if of is not None and float(of[1]) != high:
        raise Unread("a rating on another scale")
    if of is None and re.match(rf"(?:-|–|to|or)\s*{_NUMBER}", rest):
        raise Unread("two ratings for one text")
    value = float(found[0])
    if not low <= value <= high or (of is None and rest.startswith("%")):
        raise Unread("a rating outside the scale")
    return value


def ratings_in(text: str, count: int, kinds: bool = False) -> list[Rated | Unread]:
    """The ratings of some texts, in their order in the prompt; where one cannot be read, why.

    Args:
        text: what the judge wrote.
        count: of texts.
        kinds: whether kinds of faults or virtues are asked for beside the rating.
    """
    listed = _json(text)
    if listed is not None:
        parts: Mapping[int, Any] = listed
    else:
        parts = _sections(text, count)
    if not parts:
        why = "an empty answer" if not text.strip() else "no ratings in the answer"
        return [Unread(why) for _ in range(count)]
    return [
        _rated(parts[number], kinds) if number in parts else Unread("a text without a rating")
        for number in range(1, count + 1)
    ]


def _sections(text: str, count: int) -> dict[int, str]:
    """The part of an answer about each text, by its number from 1."""
    marks = list(_HEADING.finditer(text))
    found: dict[int, str] = {}
    for mark, part in _parts(marks, text):
        number = int(mark[1])
        if (
            number not in found or not found[number].strip()
        ):  # a text that is named again in a rationale stays what it was
            found[number] = part
        else:
            found[number] += text[mark.start() : mark.end()] + part
    if found:
        return found
    ratings = list(_RATING.finditer(text))
    if len(ratings) == count:  # one rating after the other, without headings
        return {number: mark[0] for number, mark in enumerate(ratings, 1)}
    if len(ratings) == 0 and count > 1:
        lines = [line for line in text.splitlines() if line.strip()]
        numbered = [re.match(r"\s*(\d+)\s*[.):]\s*(\S.*)", line) for line in lines]
        if len(lines) == count and all(numbered):
            return {int(line[1]): f"Rating: {line[2]}" for line in numbered if line is not None}
    return {}


def _parts(marks: Sequence[re.Match[str]], text: str) -> list[tuple[re.Match[str], str]]:
    """Each mark with the text up to the next one."""
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return [(mark, text[mark.end() : end]) for mark, end in zip(marks, ends, strict=False)]


def _rated(part: Any, kinds: bool) -> Rated | Unread:
    try:
        fields = _fields(part)
        value = score_in(fields["rating"], 1, 5)
        if value is not None and value != int(value):
            raise Unread("a rating that is no whole number")
    except Unread as error:
        return error
    rating = NOT_APPLICABLE if value is None else str(int(value))
    found = tuple(re.findall(r"\d+", fields.get("type", ""))) or ("None",)
    return Rated(
        rating, fields.get("rationale", ""), found if kinds else ("None",), fields.get("rationale for rating", "")
    )


def _fields(part: Any) -> dict[str, str]:
    """Rating, rationale and type of one text; a part that begins with a number has it as its rating."""
    if isinstance(part, Mapping):
        found = {str(name).strip().lower().replace("_", " "): value for name, value in part.items()}
        if "score" in found:
            found.setdefault("rating", found.pop("score"))
        if "rating" not in found or isinstance(found["rating"], (bool, list, dict)):
            raise Unread("a text without a rating")
        return {name: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for name, v in found.items()}
    if isinstance(part, (int, float)) and not isinstance(part, bool):
        return {"rating": str(part)}
    if not isinstance(part, str):
        raise Unread("a text without a rating")
    text = part
    marks = list(_PART.finditer(text))
    fields: dict[str, str] = {}
    for mark, said in _parts(marks, text):
        fields.setdefault(mark[1].lower().replace("score", "rating"), said.strip())
    if "rating" not in fields:
        loose = _RATING.search(text)
        plain = re.match(rf"{_GAP}((?:[-+]?\d|n/a|one|two|three|four|five)\S*[^\n]*)", text, re.IGNORECASE)
        if loose is None and plain is None:
            raise Unread("a text without a rating")
        fields["rating"] = loose[1] if loose is not None else plain[1]  # type: ignore[index]
    fields["rating"] = fields["rating"].partition("\n")[0]
    return fields


def _json(text: str) -> dict[int, Any] | None:
    """Ratings that are JSON: a list, or an object with one entry for each text."""
    fenced = re.search(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    given = (fenced[1] if fenced else text).strip()
    if given[:1] not in "[{":
        return None
    try:
        value = json.loads(given)
    except ValueError:
        return None
    if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), list):
        value = next(iter(value.values()))
    if isinstance(value, list):
        return dict(enumerate(value, 1))
    numbered = {int(found[0]): entry for name, entry in value.items() if (found := re.search(r"\d+", name))}
    return numbered or None


def critique_in(text: str) -> tuple[str, float | Unread | None]:
    """The critique and the overall score from 1 to 10 of an answer; in place of a score that cannot be read, why.

    Args:
        text: what the critic wrote.
    """
    marks = list(_OVERALL.finditer(text))
    if not text.strip():
        return "", Unread("an empty answer")
    if not marks:
        return text.strip(), Unread("no overall score")
    last = marks[-1]
    before = text[: last.start()].strip()
    before = re.sub(r"^[\W_]*feedback\b[\W_]*?(?::|\n)\s*", "", before, count=1, flags=re.IGNORECASE)
    said = text[last.end() :].strip().partition("\n")
    critique = before or said[2].strip()
    try:
        value = score_in(said[0], 1, 10)
    except Unread as error:
        return critique, error
    return critique, Unread("no overall score") if value is None else value
