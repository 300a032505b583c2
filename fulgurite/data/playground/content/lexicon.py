"""The words of the playground: small closed classes with the relations that its tasks are about.

Every class is a tuple, never a set, because the order decides what a seed draws. Relations: ``SYNONYMS`` (both
directions), ``KINDS`` (word to its hypernym), and the polarity of a review's words.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "ADVERBS", "ANIMALS", "ASPECTS", "BAD", "BAD_NOUNS", "COLOURS", "FEELINGS", "FILMS", "GOOD", "GOOD_NOUNS",
    "INTRANSITIVE", "KINDS", "OBJECTS", "PEOPLE", "PLACES", "PLACES_ELSEWHERE", "ROLES", "SIZES", "SYNONYMS", "TIMES",
    "TRANSITIVE", "Person", "Verb", "article", "plural", "pronoun", "sentence",
]  # fmt: skip


class Verb(NamedTuple):
    """The forms of a verb: break, breaks, broke, breaking, broken."""

    base: str
    third: str
    past: str
    ing: str
    participle: str


class Person(NamedTuple):
    """A name with its pronoun."""

    name: str
    pronoun: str


def _words(text: str, between: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(between))


def _verbs(text: str) -> tuple[Verb, ...]:
    verbs = []
    for entry in text.split(","):
        base, third, past, ing, *participle = entry.split()
        verbs.append(Verb(base, third, past, ing, participle[0] if participle else past))
    return tuple(verbs)


PEOPLE = tuple(Person(name, "she") for name in _words("Anna Clara Emma Grace Iris Kate Mary Nora Rose Vera Lucy Ella"))
PEOPLE += tuple(Person(name, "he") for name in _words("Ben David Felix Henry Jack Leo Oscar Paul Sam Tom Max Hugo"))
ROLES = _words(
    "teacher farmer doctor painter baker sailor singer student driver nurse guard cook writer king lawyer pilot"
)
ANIMALS = _words("cat dog horse bird fox rabbit mouse duck cow sheep")
OBJECTS = _words(
    "ball book box cup hat key lamp letter map apple coat bottle basket chair clock drum flute kite ring pear table "
    "shirt plum violin shoe spoon picture rope bag coin"
)
COLOURS = _words("red blue green yellow white black brown grey")
SIZES = _words("big small old new heavy light clean dirty cheap fine")
PLACES = _words(
    "in the garden|in the kitchen|at the market|in the park|at the school|at the station|by the river|in the forest|"
    "in the library|on the beach|in the street|in the barn|at the harbour|in the tower|on the hill|at the museum",
    "|",
)
PLACES_ELSEWHERE = _words(
    "in the office|at the bank|in the court|at the hotel|on the train|at the airport|in the factory|on the ship", "|"
)
TIMES = _words("in the morning|at noon|in the evening|at night|on Monday|on Friday|last week|last year", "|")
ADVERBS = _words("quickly slowly quietly loudly gladly often again alone")
FEELINGS = _words("happy sad tired hungry angry proud afraid calm")
TRANSITIVE = _verbs(
    "find finds found finding,carry carries carried carrying,paint paints painted painting,buy buys bought buying,"
    "sell sells sold selling,open opens opened opening,hold holds held holding,clean cleans cleaned cleaning,"
    "break breaks broke breaking broken,hide hides hid hiding hidden,drop drops dropped dropping,"
    "watch watches watched watching,lose loses lost losing,fix fixes fixed fixing,throw throws threw throwing thrown,"
    "bring brings brought bringing,keep keeps kept keeping,push pushes pushed pushing,draw draws drew drawing drawn,"
    "want wants wanted wanting"
)
INTRANSITIVE = _verbs(
    "sleep sleeps slept sleeping,run runs ran running run,sing sings sang singing sung,dance dances danced dancing,"
    "laugh laughs laughed laughing,wait waits waited waiting,walk walks walked walking,"
    "swim swims swam swimming swum,rest rests rested resting,play plays played playing"
)
KINDS = {
    "apple": "fruit", "pear": "fruit", "plum": "fruit", "drum": "instrument", "flute": "instrument",
    "violin": "instrument", "chair": "piece of furniture", "table": "piece of furniture", "coat": "piece of clothing",
    "hat": "piece of clothing", "shirt": "piece of clothing", "shoe": "piece of clothing", "ball": "toy", "kite": "toy",
    "cat": "animal", "dog": "animal", "horse": "animal", "cow": "animal", "sheep": "animal", "fox": "animal",
}  # fmt: skip
_PAIRS = (
    ("big", "large"), ("small", "little"), ("buy", "purchase"), ("bought", "purchased"), ("fix", "repair"),
    ("fixed", "repaired"), ("find", "discover"), ("found", "discovered"), ("cleaned", "washed"),
    ("throw", "toss"), ("threw", "tossed"), ("thrown", "tossed"), ("picture", "image"), ("forest", "wood"),
    ("happy", "glad"), ("quickly", "fast"), ("street", "road"), ("harbour", "port"), ("grey", "gray"),
    ("quietly", "silently"), ("bottle", "flask"), ("coat", "jacket"), ("watched", "observed"), ("watch", "observe"),
)  # fmt: skip
SYNONYMS = dict(_PAIRS) | {right: left for left, right in _PAIRS if right != "tossed"}

GOOD = _words(
    "good great wonderful charming bright warm funny clever moving brilliant fresh lively honest rich gentle tender "
    "delightful superb sharp witty graceful thrilling beautiful touching strong lovely memorable smart fine "
    "vivid"
)
BAD = _words(
    "bad dull boring weak empty flat cold clumsy lazy silly awful tired stale shallow noisy ugly tedious stupid cheap "
    "lifeless dreary messy pointless predictable forgettable grim sloppy bland poor hollow"
)
GOOD_NOUNS = _words("charm wit warmth heart energy humour depth grace tension magic")
BAD_NOUNS = _words("clichés boredom noise mistakes confusion nonsense gaps flaws tricks excuses")
ASPECTS = _words("plot acting cast script ending music dialogue camera direction pace story hero style beginning")
FILMS = _words("film movie comedy drama picture tale thriller adventure romance documentary")


def article(phrase: str) -> str:
    """The phrase with a or an in front of it."""
    return f"{'an' if phrase[0] in 'aeiou' or phrase.startswith('honest') else 'a'} {phrase}"


def plural(noun: str) -> str:
    """The plural of one of this file's nouns."""
    irregular = {"mouse": "mice", "sheep": "sheep", "piece of furniture": "pieces of furniture",
                 "piece of clothing": "pieces of clothing", "fox": "foxes", "box": "boxes"}  # fmt: skip
    return irregular.get(noun, f"{noun}s")


def pronoun(subject: str) -> str:
    """The pronoun of a name, else it."""
    return next((person.pronoun for person in PEOPLE if person.name == subject), "it")


def sentence(words: str, end: str = ".") -> str:
    """The words with a capital at the start and a mark at the end."""
    return words[0].upper() + words[1:] + end
