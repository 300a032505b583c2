"""Which answers are compared with which: UltraFeedback's scores, and the published rules that make pairs of them.

| rule | pairs of a row |
|---|---|
| all | every two answers with different scores (paper: 340,025 of 383,802; ties are dropped) |
| best_vs_random | the best, the first on a tie, against one of the others at random (Zephyr's binarisation) |
| best_vs_worst | the best against the worst, unless all are equal |

The random choice hangs on seed, prompt and row: the first binarisation seeded anew in each row, so that its "random"
answer was nearly always the first one. Of answers as good as the best, best_vs_random takes none unless `ties`.

| score | of an answer of UltraFeedback (Cui et al., arXiv 2310.01377) |
|---|---|
| mean | mean of its ratings from 1 to 5 over the aspects whose rating is not "N/A" (Eurus, Argilla) |
| overall | the overall score from 1 to 10; a 10 beside a mean of at most 2 is a 1 (issue 8 of its repository) |
| an aspect | its rating: instruction_following, honesty, truthfulness, helpfulness; harmlessness (UltraSafety, 0 or 1) |

A rating outside its scale is none: the answer has no score. Margins may be divided by the widest one that a scale allows (4
for ratings and their mean, 9 for the overall score), so that they lie in (0, 1]: UltraRM's normaliser was not published.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fulgurite.data.records.conversation import Turn
from fulgurite.data.records.findings import Finding
from fulgurite.data.records.preference import EQUAL, Labelled, Preference, PreferenceRecord, Ranked

__all__ = ["PAIR_RULES", "Comparison", "Kind", "compare", "pair_up"]

Kind = Literal["pairs", "labels", "groups"]
PAIR_RULES = ("all", "best_vs_random", "best_vs_worst")
KINDS = ("pairs", "labels", "groups")
_TIES = "no two answers with different scores"


@dataclass(frozen=True)
class Comparison:
    """Answers to one prompt and how they are compared; exactly one of the last three is not empty.

    Attributes:
        prompt: The turns before each answer.
        completions: The answers.
        source: Where the row is from.
        row: Its number there.
        where: Its place, for messages.
        weight: Multiplies its loss.
        group: Rows of one group may share a tree; None: rows with the same prompt.
        tag: What metrics by group go by.
        direct: Whether its pairs get the direct term of a reward model.
        pairs: Chosen, rejected (indices into `completions`) and margin, 0 where nobody gave one.
        labels: An index into `completions` and whether that answer is desirable; an answer may come twice.
        scores: One per answer, for losses over all of them.
    """

    prompt: tuple[Turn, ...]
    completions: tuple[str, ...]
    source: str
    row: int
    where: str
    weight: float = 1.0
    group: str | None = None
    tag: str | None = None
    direct: bool = False
    pairs: tuple[tuple[int, int, float], ...] = ()
    labels: tuple[tuple[int, bool], ...] = ()
    scores: tuple[float, ...] = ()


def pair_up(scores: Sequence[float], rule: str = "all", ties: bool = False, seed: object = 0) -> list[tuple[int, int]]:
    """Pairs (better, worse) of answers, as indices; see the rules above.

    Args:
        scores: of the answers, at least two.
        rule: one of `PAIR_RULES`.
        ties: best_vs_random may also take an answer that is as good as the best, as the published binarisation does.
        seed: decides the random answer; anything with a stable `str`.
    """
    if rule not in PAIR_RULES:
        raise ValueError(f"pair_up: rule {rule!r}; allowed are {', '.join(map(repr, PAIR_RULES))}; choose one of them")
    places = range(len(scores))
    if rule == "all":
        pairs = [(i, j) for i in places for j in places if i < j and scores[i] != scores[j]]
        return [(i, j) if scores[i] > scores[j] else (j, i) for i, j in pairs]
    best = max(places, key=lambda i: scores[i])
    if rule == "best_vs_worst":
        worst = min(places, key=lambda i: scores[i])
        return [(best, worst)] if scores[worst] < scores[best] else []
    others = [i for i in places if i != best and (ties or scores[i] < scores[best])]
    # random() alone is the same on every version of Python; choice is not.
    return [(best, others[int(random.Random(str(seed)).random() * len(others))])] if others else []


def compare(
    record: PreferenceRecord,
    kind: Kind,
    rule: str = "all",
    ties: bool = False,
    seed: int = 0,
    margin_scale: float | str | None = None,
) -> Comparison | Finding:
    """How the answers of a record are compared, or why they cannot be.

    Pairs become labels as the chosen answer desirable and the rejected one not; an answer in several pairs then counts
    as often.

    Args:
        record: checked.
        kind: "pairs", "labels" or "groups".
        rule: how the answers of a `Ranked` are paired, for pairs and labels.
        ties: see `pair_up`.
        seed: see `pair_up`.
        margin_scale: what margins are divided by; "annotation": the widest that the record's scale allows.

    Raises:
        ValueError: a margin of unknown scale, or one that its scale does not allow.
        ValueError: a record that cannot be of that kind, such as pairs of single labelled answers.
    """
    if kind not in KINDS:
        raise ValueError(f"compare: kind {kind!r}; allowed are {', '.join(map(repr, KINDS))}; choose one of them")
    shared: dict[str, Any] = {
        "prompt": record.prompt,
        "source": record.source,
        "row": record.row,
        "where": record.where,
        "weight": record.weight,
        "group": record.group,
        "tag": record.tag,
    }
    if isinstance(record, Labelled):
        if kind != "labels":
            raise ValueError(
                f"{record.where}: a single answer with a label cannot be compared as {kind!r}; allowed is 'labels' (KTO); "
                "give rows with two answers, or choose objective_kind='labels'"
            )
        return Comparison(completions=(record.completion,), labels=((0, record.desirable),), **shared)
    if kind == "groups":
        if not isinstance(record, Ranked):
            raise ValueError(
                f"{record.where}: a pair without scores cannot be compared as 'groups'; rows of several scored answers are "
                "needed; choose objective_kind='pairs'"
            )
        return Comparison(completions=record.completions, scores=record.scores, **shared)
    if isinstance(record, Preference):
        answers: tuple[str, ...] = (record.chosen, record.rejected)
        pairs = [(0, 1, _divided(float(record.margin or 0.0), record, margin_scale))]
    else:
        answers, scores = record.completions, record.scores
        found = pair_up(scores, rule, ties, f"{seed}|{record.row}|{record.prompt[-1].content}")
        if not found:
            return Finding(record.where, _TIES, f"the scores are {', '.join(f'{score:g}' for score in scores)}")
        pairs = [
            (i, j, _divided(scores[i] - scores[j], record, margin_scale))
            for i, j in found
            if answers[i].strip() != answers[j].strip()
        ]
        if not pairs:
            return Finding(record.where, EQUAL, "every pair of the row is twice the same text")
    if kind == "pairs":
        direct = isinstance(record, Preference) and record.direct
        return Comparison(completions=answers, pairs=tuple(pairs), direct=direct, **shared)
    labels = [label for i, j, _ in pairs for label in ((i, True), (j, False))]
    return Comparison(completions=answers, labels=tuple(labels), **shared)


def _divided(margin: float, record: Preference | Ranked, by: float | str | None) -> float:
    if by is None or margin == 0.0:
        return margin
    scale = record.scale if by == "annotation" else float(by)
    if scale is None or scale <= 0:
        raise ValueError(
            f"{record.where}: the margin is {margin:g}, and nobody says on which scale; give margin_scale a number above 0, the "
            "widest margin that there can be, or leave it out to take margins as they are"
        )
    if by == "annotation" and abs(margin) > scale + 1e-6:
        raise ValueError(
            f"{record.where}: the margin is {margin:g}, more than the {scale:g} that its scale allows; correct the row, or give "
            "margin_scale a number"
        )
    return margin / scale
