"""Reviews with a sentiment that follows from how words are combined, not from one keyword.

A clause takes a word of either polarity and may turn it over (not, never, far from, lacks, without); a contrast (but,
although, even though, despite) carries the polarity of its main part. A clause's combination of frame, word and
subject belongs to one split, so that held-out reviews combine known words anew.
"""

from __future__ import annotations

from fulgurite.data.playground.content.lexicon import ASPECTS, BAD, BAD_NOUNS, FILMS, GOOD, GOOD_NOUNS, article
from fulgurite.data.playground.draw import Draw

__all__ = ["clause", "rated", "review", "verdict"]

# Frame, and whether it turns the polarity of its word over. {s}: subject, {w}: word, {a}: word with its article,
# {n}: noun with a polarity, {f}: film, {b}: film with its article.
_ADJECTIVE_FRAMES = (
    ("the {s} is {w}", False),
    ("the {s} is very {w}", False),
    ("{a} {f}", False),
    ("the {s} feels {w}", False),
    ("the {s} remains {w} to the end", False),
    ("the {s} is not {w}", True),
    ("the {s} is never {w}", True),
    ("the {s} is far from {w}", True),
    ("the {s} is anything but {w}", True),
    ("there is nothing {w} in the {s}", True),
    ("not {a} {f} at all", True),
)
_NOUN_FRAMES = (
    ("the {s} has {n}", False),
    ("{b} full of {n}", False),
    ("the {s} lacks {n}", True),
    ("{b} without {n}", True),
    ("the {s} has no {n}", True),
    ("not a trace of {n} in the {s}", True),
)
_OPINIONS = {
    True: ("i loved it", "i would see it again", "it is worth your time", "i left with a smile", "do not miss it"),
    False: ("i hated it", "i would not see it again", "it is a waste of time", "i left too early", "stay at home"),
}


def clause(draw: Draw, positive: bool) -> str:
    """One clause with the wanted polarity.

    Args:
        draw: the stream; the clause's combination belongs to its split.
        positive: the polarity.
    """

    def combination() -> tuple[str, ...]:
        # As in natural text most words mean what they say, which is where a model starts from; the rest is turned over.
        turns = draw.chance(0.3)
        adjective = draw.chance(0.7)
        frames = _ADJECTIVE_FRAMES if adjective else _NOUN_FRAMES
        frame = draw.pick(tuple(text for text, turned in frames if turned == turns))
        words = (GOOD, BAD) if adjective else (GOOD_NOUNS, BAD_NOUNS)
        word = draw.pick(words[0] if positive != turns else words[1])
        film = draw.pick(FILMS)
        subject = draw.pick(ASPECTS)
        return (frame.format(s=subject, w=word, f=film, n=word, a=article(word), b=article(film)),)

    return draw.owned(combination)[0]


def review(draw: Draw, positive: bool) -> str:
    """A one-sentence review in the manner of SST-2: lower case, no mark at the end.

    Args:
        draw: the stream.
        positive: the sentiment of the whole.
    """
    form = draw.integer(0, 13)
    main = clause(draw, positive)
    if form <= 6:
        return main
    if form <= 9:
        return f"{main} and {clause(draw, positive)}"
    contrast = clause(draw, not positive)
    if form == 10:
        return f"{contrast} , but {main}"
    if form == 11:
        return f"although {contrast} , {main}"
    if form == 12:
        return f"{main} , even though {contrast}"
    return f"some say {contrast} ; in truth {main}"


def rated(draw: Draw) -> str:
    """Some short reviews, each with its rating behind it."""
    lines = []
    for _ in range(draw.integer(3, 6)):
        positive = draw.chance(0.5)
        lines.append(f"{review(draw, positive)} : {'good' if positive else 'bad'}")
    return "\n".join(lines)


def verdict(draw: Draw, positive: bool) -> str:
    """A reviewer's last words."""
    return draw.pick(_OPINIONS[positive])
