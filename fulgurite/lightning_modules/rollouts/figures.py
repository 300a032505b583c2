"""Figures of drawn answers: rewards, lengths, how many were cut, left out, or of groups whose answers all have one reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from fulgurite.lightning_modules.rollouts.drawing import Answer, Group
from fulgurite.losses.policy import kl_estimate

__all__ = ["drawn_figures", "explained_variance", "kl_per_answer", "mismatch", "rates", "teaches", "usable"]


def usable(groups: Sequence[Group]) -> list[Group]:
    """The groups with those answers alone that have a reward; groups without any such answer are left out.

    Args:
        groups: as they were drawn.
    """
    kept = [replace(g, answers=[a for a in g.answers if math.isfinite(a.reward)]) for g in groups]
    return [group for group in kept if group.answers]


def teaches(group: Group) -> bool:
    """Whether some of its answers have different rewards, so that one can be told to be better than another.

    Args:
        group: with its rewards.
    """
    return len({answer.reward for answer in group.answers if math.isfinite(answer.reward)}) > 1


def drawn_figures(groups: Sequence[Group]) -> dict[str, float]:
    """Means over the answers, by the names that they are logged under.

    ``reward`` and ``reward_std`` of the weighted sum, ``reward/<name>`` of each part; ``length`` in tokens; ``truncated``,
    ``empty`` and ``dropped`` (without a reward) as shares of the answers; ``zero_variance``, the share of the groups of two and
    more in which all rewards are equal.

    Args:
        groups: as they were drawn.
    """
    answers = [answer for group in groups for answer in group.answers]
    totals = [a.reward for a in answers if math.isfinite(a.reward)]
    found = {"reward": _mean(totals), "reward_std": _deviation(totals)}
    for name in answers[0].rewards if len(answers[0].rewards) > 1 else ():
        found[f"reward/{name}"] = _mean([a.rewards[name] for a in answers if math.isfinite(a.rewards[name])])
    found["length"] = _mean([len(a.tokens) for a in answers])
    found["truncated"] = _share(answers, [a.cut for a in answers])
    found["empty"] = _share(answers, [not a.text.strip() for a in answers])
    found["dropped"] = 1 - len(totals) / len(answers)
    compared = [group for group in usable(groups) if len(group.answers) > 1]
    equal = [not teaches(group) for group in compared]
    found["zero_variance"] = sum(equal) / len(compared) if compared else 0.0
    return found


def kl_per_answer(policy: torch.Tensor, reference: torch.Tensor, answers: int) -> float:
    """KL of a whole answer in nats: k3 summed over its tokens, averaged over the answers.

    Args:
        policy: log-probabilities of all tokens, (K,).
        reference: of the same, (K,).
        answers: how many answers they are.
    """
    return float(kl_estimate(policy, reference, "k3").double().sum()) / max(1, answers)


def mismatch(trainer: torch.Tensor, sampler: torch.Tensor) -> dict[str, float]:
    """How far the trainer's log-probabilities are from the sampler's: k3 per token, and the largest difference.

    Args:
        trainer: of all tokens, (K,).
        sampler: of the same, (K,).
    """
    k3 = kl_estimate(sampler.double(), trainer.double(), "k3").mean()
    return {"mismatch": float(k3), "mismatch_max": float((trainer - sampler).abs().max())}


def rates(figures: Mapping[str, float], seconds: float, computed: float) -> dict[str, float]:
    """Seconds of training, the share of drawing in a step, and tokens per second of both.

    Args:
        figures: with draw_seconds and drawn_tokens.
        seconds: of training.
        computed: tokens of all trees.
    """
    drawing = figures["draw_seconds"]
    return {
        "train_seconds": seconds,
        "draw_share": drawing / (drawing + seconds),
        "drawn_tokens_per_second": figures["drawn_tokens"] / drawing,
        "trained_tokens_per_second": computed / seconds,
    }


def explained_variance(values: torch.Tensor, returns: torch.Tensor) -> float:
    """1 − Var(returns − values) / Var(returns): 1 where the values know all, 0 where they know nothing; NaN for equal returns.

    Args:
        values: of the state before each token, (K,).
        returns: (K,).
    """
    spread = float(returns.double().var(unbiased=False))
    return 1 - float((returns - values).double().var(unbiased=False)) / spread if spread > 0 else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _deviation(values: Sequence[float]) -> float:
    centre = _mean(values)
    return math.sqrt(_mean([(value - centre) ** 2 for value in values])) if values else math.nan


def _share(answers: Sequence[Answer], flags: Sequence[bool]) -> float:
    return sum(flags) / len(answers)
