"""How well a text answers: exact match and F1 over tokens as SQuAD counts them (arXiv 1606.05250), ROUGE-L (Lin, 2004).

SQuAD: lower case, without punctuation and the articles a, an, the; the best over the right answers. F1 = 2PR/(P + R) over
the multiset of tokens; two empty texts agree.

ROUGE-L: with L the length of the longest common subsequence of both texts' tokens, P = L/|answer|, R = L/|reference|,
F = 2PR/(P + R). Tokens are the runs of lower-case letters and digits, not stemmed: Google's `rouge_score` with its defaults. That
one knows a-z and 0-9 only; here letters of every script count, so that text in another script does not score 0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

__all__ = ["ANSWER_METRICS", "exact_match", "normalised", "rouge_l", "token_f1"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TOKEN = re.compile(r"[^\W_]+")


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1.0 if the answer is one of the references after normalisation, else 0.0."""
    return float(any(normalised(answer) == normalised(reference) for reference in references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """F1 over tokens against the reference that suits best, 0.0 to 1.0."""
    return max((_f1(normalised(answer).split(), normalised(text).split()) for text in references), default=0.0)


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """ROUGE-L's F against the reference that suits best, 0.0 to 1.0; a text without tokens scores 0."""
    mine = _TOKEN.findall(answer.lower())
    return max((_lcs_f(mine, _TOKEN.findall(text.lower())) for text in references), default=0.0)


def _f1(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    return _f(sum((Counter(answer) & Counter(reference)).values()), len(answer), len(reference))


def _lcs_f(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return 0.0
    return _f(_lcs(answer, reference), len(answer), len(reference))


def _f(common: int, answer: int, reference: int) -> float:
    return 2 * common / (answer + reference)  # 2PR/(P + R) with P = common/answer, R = common/reference


def _lcs(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, in one row of memory."""
    row = [0] * (len(second) + 1)
    for token in first:
        before = 0
        for at, other in enumerate(second, 1):
            above = row[at]
            row[at] = before + 1 if token == other else max(above, row[at - 1])
            before = above
    return row[-1]


ANSWER_METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "token_f1": token_f1,
    "exact_match": exact_match,
    "rouge_l": rouge_l,
}
