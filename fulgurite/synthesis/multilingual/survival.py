r"""What a translation has to keep, and whether it did: code, formulas, links, numbers, and that it is a translation.

| kept | compared |
|---|---|
| code: in ```, in `, indented lines and heads of functions, a Python program | as it stands, but for blanks at ends of lines |
| LaTeX: $…$, $$…$$, \(…\), \[…\], environments, single commands | without blanks, delimiters, and what stands in \text{…} |
| links | as they stand |
| a last line "#### 72" | as it stands: what reads answers looks for it |
| numbers of the rest | by value: 1,234.5 is 1.234,5, 1 234,5 and ١٢٣٤٫٥ |

The published pipeline has no such check, so that a sentence could come back answered, and a number changed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from fulgurite.synthesis.multilingual.languages import WORD
from fulgurite.synthesis.trees.interpreter import syntax_error

__all__ = ["Kept", "kept_in", "lost_in"]

_BLOCK = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_ENVIRONMENT = re.compile(r"\\begin\{([a-zA-Z]+\*?)\}.*?\\end\{\1\}", re.DOTALL)
_FORMULA = re.compile(
    # a dollar is a price, not a formula, where a blank stands inside or a digit behind it
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<![\\$])\$(?=[^\s$])((?:[^$\n\\]|\\.)*?)(?<=\S)\$(?![\d$])",
    re.DOTALL,
)
_LINES = re.compile(  # code without marks around it; an indented point of a list is prose
    r"(?:^(?:(?: {4}|\t)[ \t]*(?![-*•+\s]|\d+[.)]|[a-z][.)])\S.*|(?:async )?def \w+\(.*\).*:|class \w+(?:\(.*\))?:|#include .*"
    r"|from \S+ import .*)(?:\n|\Z))+",
    re.MULTILINE,
)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"(?:https?://|www\.)[^\s<>()\[\]\"'，。；、）]+")
_FINAL = re.compile(r"^####[ \t]*(-?[$€£]?[\d.,/]+%?)[ \t]*$", re.MULTILINE)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_TEXT = re.compile(r"\\(?:text|mbox|textrm|textbf|textit)\s*\{[^{}]*\}")
_PROGRAM = re.compile(
    r"^\s*(?:def |class |import |from \w+ import |for .+:|while .+:|if .+:|print\(|\w+ = )", re.MULTILINE
)
_NUMBER = re.compile(r"(?:(?<![^\s(=:,])[-−])?\d+(?:[.,'’٫٬\u00a0\u202f\u2009]\d+)*")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)")
_QUESTION = "?？؟;՞;፧"
_UNMARKED = ("th", "lo", "my", "km", "bo", "dz")  # languages whose questions need no mark
_TIMES = 4  # a translation is at most so many times as long as its source, in bytes, or as short
_SHORT = 60  # bytes of a source below which its length says nothing


@dataclass(frozen=True)
class Kept:
    """What a text holds that no translation may change.

    Attributes:
        code: blocks and spans of code.
        formulas: without blanks and delimiters.
        links: as they stand.
        finals: what stands behind ####.
        prose: the rest.
    """

    code: Counter[str]
    formulas: Counter[str]
    links: Counter[str]
    finals: tuple[str, ...]
    prose: str

    @property
    def is_prose(self) -> bool:
        """Whether there is a word to translate."""
        return any(character.isalpha() for character in self.prose)


def kept_in(text: str) -> Kept:
    """What a translation of a text has to keep.

    Args:
        text: any.
    """
    if _PROGRAM.search(text) and "```" not in text and syntax_error(text) is None:
        return Kept(Counter([_trimmed(text)]), Counter(), Counter(), (), "")
    code: Counter[str] = Counter()
    formulas: Counter[str] = Counter()
    links: Counter[str] = Counter()
    finals: list[str] = []

    def take(found: re.Match[str], where: Counter[str], value: str) -> str:
        where[value] += 1
        return " "

    rest = _BLOCK.sub(lambda found: take(found, code, _trimmed(found[0])), text)
    rest = _LINES.sub(lambda found: take(found, code, _trimmed(found[0])) + "\n", rest)
    rest = _SPAN.sub(lambda found: take(found, code, found[1].strip()), rest)
    rest = _ENVIRONMENT.sub(lambda found: take(found, formulas, _formula(found[0])), rest)
    rest = _FORMULA.sub(
        lambda found: take(found, formulas, _formula(next(part for part in found.groups() if part is not None))), rest
    )
    rest = _LINK.sub(lambda found: take(found, links, found[0].rstrip(".,;:!?")), rest)
    rest = _FINAL.sub(lambda found: finals.append(found[1]) or " ", rest)  # type: ignore[func-returns-value]
    rest = _COMMAND.sub(lambda found: take(found, formulas, found[0]), rest)
    return Kept(code, formulas, links, tuple(finals), rest)


def lost_in(source: str, translation: str, target: str) -> tuple[str, str] | None:
    """Why a text is no translation of another: a reason and what was found; None if nothing speaks against it.

    Args:
        source: what was to be translated.
        translation: what came.
        target: two letters of its language.
    """
    if not translation.strip():
        return "empty", ""
    before, after = kept_in(source), kept_in(translation)
    for reason, one, other in (
        ("code changed", before.code, after.code),
        ("LaTeX changed", before.formulas, after.formulas),
        ("links changed", before.links, after.links),
        ("the line of the answer (####) changed", Counter(before.finals), Counter(after.finals)),
    ):
        if one != other:
            return reason, _difference(list((one - other).elements()), list((other - one).elements()))
    wrong = _numbers_changed(before.prose, after.prose)
    if wrong is not None:
        return "numbers changed", wrong
    words = WORD.findall(before.prose.lower())
    if len(words) >= 4 and words == WORD.findall(after.prose.lower()):
        return "not translated", translation[:60]
    sizes = len(before.prose.encode(errors="replace")), len(after.prose.encode(errors="replace"))
    if sizes[0] >= _SHORT and not sizes[0] <= _TIMES * sizes[1] <= _TIMES * _TIMES * sizes[0]:
        return "of another length", f"{sizes[0]} bytes of words became {sizes[1]}"
    asks = source.rstrip(" \n\"'»”)*_").endswith(tuple(_QUESTION))
    if asks and target not in _UNMARKED and not any(mark in translation for mark in _QUESTION):
        return "a question is none any more", translation[:60]
    return None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _formula(text: str) -> str:
    return re.sub(r"\s+", "", _TEXT.sub(r"\\text", text))


def _difference(missing: Sequence[object], new: Sequence[object]) -> str:
    told = []
    for parts, what in ((missing, "is missing"), (new, "is new")):
        told += [f"{'; '.join(f'{part!s:.60}' for part in parts[:3])} {what}"] if parts else []
    return ", ".join(told)


def _numbers_changed(source: str, translation: str) -> str | None:
    """What is missing and new, by value; None if every number is there as often. A blank may group digits or divide numbers."""
    told: list[tuple[int, str]] = []
    for one in _readings(source):
        for other in _readings(translation):
            missing, new = _unmatched(one, other)
            if not missing and not new:
                return None
            told.append((len(missing) + len(new), _difference(missing, new)))
    return min(told)[1]


def _readings(text: str) -> Iterator[list[str]]:
    plain = "".join(str(int(c)) if c.isdecimal() and not c.isascii() else c for c in text)
    yield _NUMBER.findall(plain)
    grouped = _GROUPED.sub(lambda found: found[0].replace(" ", "\u00a0"), plain)
    if grouped != plain:
        yield _NUMBER.findall(grouped)


def _unmatched(one: list[str], other: list[str]) -> tuple[list[str], list[str]]:
    """Numbers of each side without one of the same value on the other; those that are written alike are matched first."""
    left = list((Counter(one) - Counter(other)).elements())
    new = list((Counter(other) - Counter(one)).elements())
    missing = []
    for number in sorted(left, key=lambda number: len(_values(number))):
        match = next((written for written in new if _values(written) & _values(number)), None)
        if match is None:
            missing.append(number)
        else:
            new.remove(match)
    return missing, new


def _values(number: str) -> frozenset[Decimal | str]:
    """What a number may mean: 1.234 is one thousand and some, or one and some. A date or a version is what is written."""
    plain = number.replace("٫", ",").replace("٬", ".").replace("−", "-")
    sign, plain = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
    digits, marks = re.split(r"\D", plain), re.findall(r"\D", plain)
    found: set[Decimal | str] = set()
    if not marks or (len(marks) == 1 and marks[0] in ".,"):
        found.add(Decimal(sign + ".".join(digits)))
    whole, last = (digits[:-1], marks[-1]) if marks else (digits, "")
    if marks and _grouped(digits, marks):
        found.add(Decimal(sign + "".join(digits)))
    if len(marks) > 1 and last in ".," and last not in marks[:-1] and _grouped(whole, marks[:-1]):
        found.add(Decimal(f"{sign}{''.join(whole)}.{digits[-1]}"))
    return frozenset(found or {sign + plain})


def _grouped(digits: Sequence[str], marks: Sequence[str]) -> bool:
    """Whether marks of one kind divide thousands."""
    return len(set(marks)) == 1 and 1 <= len(digits[0]) <= 3 and all(len(group) == 3 for group in digits[1:])
