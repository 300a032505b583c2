"""Which of several answers to one prompt is taken: by the highest score, by the most votes, by weighted votes.

Weighted votes (best-of-n and self-consistency together): of the answers with the same canonical form the weights are summed, and
the largest sum wins. A Bradley-Terry reward has no zero, so that sums of rewards would choose another answer as soon as a constant
is added to all of them; the weight is exp((s − max s)/τ), the softmax over the prompt's answers, which no constant changes.

An answer without a score (None) is taken only where no answer has one. An answer without a canonical form (None: nothing
could be read out of the text) has no vote. Ties: of best, the answer that comes first; of majority, the form that came first; of
weighted votes, the form with the highest score, then the one that came first. Within the winning form of weighted votes the
answer with the highest score is taken.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch

__all__ = ["best", "select_answers", "weighted"]

_CLOSE = 1e-12  # relative: sums of equal weights in another order differ by rounding


def select_answers(answers: Sequence[Sequence[str]], scores: torch.Tensor) -> list[str]:
    """Of each question the answer with the highest score; ties go to the first model.

    UltraFuser (https://arxiv.org/abs/2403.08281) lets a reward model or GPT-4o choose; any scorer will do.

    Args:
        answers: of E models, N each.
        scores: (E, N), what a scorer thinks of them.
    """
    if not answers or tuple(scores.shape) != (len(answers), len(answers[0])):
        raise ValueError(
            f"select_answers: scores are {tuple(scores.shape)} for {len(answers)} models with "
            f"{len(answers[0]) if answers else 0} answers; (models, answers) is needed"
        )
    return [answers[int(best)][i] for i, best in enumerate(scores.argmax(0))]


def best(scores: Sequence[float | None]) -> int | None:
    """The place of the highest score, the first of equal ones; None where no answer has a score.

    Args:
        scores: of one prompt's answers.
    """
    places = [place for place, score in enumerate(scores) if score is not None]
    return max(places, key=lambda place: (scores[place], -place), default=None)


def weighted(scores: Sequence[float | None], forms: Sequence[str | None], tau: float = 1.0) -> int | None:
    """The place of the answer that weighted votes choose; None where no answer has both a score and a form.

    Args:
        scores: of one prompt's answers.
        forms: their canonical forms.
        tau: temperature τ of the weights, in points of the score: towards 0 the highest score decides alone, towards infinity the
            number of votes.

    Raises:
        ValueError: τ not above 0; as many scores as forms are needed.
    """
    if not 0 < tau < math.inf:
        raise ValueError(f"weighted: tau={tau}; it must be above 0; give 1 or a value chosen on held-out prompts")
    voters = [
        (place, score, form)
        for place, (score, form) in enumerate(zip(scores, forms, strict=True))
        if score is not None and form is not None
    ]
    if not voters:
        return None
    highest = max(score for _, score, _ in voters)
    votes: defaultdict[str, float] = defaultdict(float)
    first: dict[str, tuple[float, int]] = {}  # of each form its highest score and, negative, the place of that answer
    for place, score, form in voters:
        votes[form] += math.exp((score - highest) / tau)
        first[form] = max(first.get(form, (-math.inf, 0)), (score, -place))
    most = max(votes.values())
    winner = max((form for form in votes if votes[form] >= most * (1 - _CLOSE)), key=lambda form: first[form])
    return -first[winner][1]
