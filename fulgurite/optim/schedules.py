"""Learning-rate and threshold schedules, as pure functions of the optimizer step, so that a resumed run needs no state.

Sparsifying schedule: SoRA, arXiv 2311.11696, Algorithm 1: stages with thresholds ξ_1 < … < ξ_T, each continuing from the
one before. The released code reuses its exhausted LR schedulers, so from the second stage on its lr is 0 and only gates
shrink; here every stage warms up and decays anew.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

__all__ = ["LR_SHAPES", "StagedSchedule", "threshold_stages"]

LR_SHAPES = ("linear", "cosine", "constant")


class StagedSchedule:
    """Factor on the learning rate at each optimizer step: per stage, linear warm-up and then decay to zero.

    Args:
        stage_steps: optimizer steps of each stage, in order; one entry is an ordinary schedule.
        warmup_ratio: share of each stage's steps spent on warm-up, 0 to 1.
        shape: "linear", "cosine" (decay to zero) or "constant" (after the warm-up).

    Raises:
        ValueError: an unknown shape, a stage without steps, or a ratio outside 0 to 1.
    """

    def __init__(self, stage_steps: Sequence[int], warmup_ratio: float = 0.06, shape: str = "linear") -> None:
        if shape not in LR_SHAPES:
            raise ValueError(f"StagedSchedule: shape={shape!r}; allowed are {', '.join(map(repr, LR_SHAPES))}.")
        if not stage_steps or min(stage_steps) < 1:
            raise ValueError(f"StagedSchedule: stage_steps={list(stage_steps)}; each stage needs at least one step.")
        if not 0 <= warmup_ratio <= 1:
            raise ValueError(f"StagedSchedule: warmup_ratio={warmup_ratio}; allowed is 0 to 1.")
        self.stage_steps = list(stage_steps)
        self.ends = list(accumulate(stage_steps))
        self.warmup_ratio = warmup_ratio
        self.shape = shape

    def stage(self, step: int) -> int:
        """Index of the stage that optimizer step ``step`` (from 0) belongs to."""
        return min(bisect_right(self.ends, step), len(self.ends) - 1)

    def __call__(self, step: int) -> float:
        """Factor for optimizer step ``step``, counted from 0."""
        stage = self.stage(step)
        total = self.stage_steps[stage]
        done = step - (self.ends[stage] - total)
        warmup = int(self.warmup_ratio * total)
        if done < warmup:
            return (done + 1) / (warmup + 1)
        if self.shape == "constant":
            return 1.0
        left = max(0.0, (total - done) / max(1, total - warmup))
        return left if self.shape == "linear" else 0.5 * (1 - math.cos(math.pi * min(1.0, left)))


def threshold_stages(
    schedule: str | Sequence[float], start: float, end: float | None = None, stages: int | None = None
) -> list[float]:
    """Thresholds of a sparsifying schedule (SoRA, Algorithm 1; the released code's names in brackets).

    Args:
        schedule: "linear" (linear), "log": log of an even grid between e^start and e^end (log_linear), "geometric" (exp_linear),
            or the thresholds themselves, which must not fall.
        start: threshold of stage 0.
        end: threshold of the last stage.
        stages: number of stages, at least 2.

    Returns:
        ``stages`` thresholds from ``start`` to ``end``, both included.

    Raises:
        ValueError: what was given, and what is allowed.
    """
    if not isinstance(schedule, str):
        explicit = [float(value) for value in schedule]
        if not explicit or min(explicit) < 0 or explicit != sorted(explicit):
            raise ValueError(
                f"threshold_stages: {explicit}; a list of thresholds must be non-empty, >= 0 and must not fall."
            )
        return explicit
    if schedule not in ("linear", "log", "geometric"):
        raise ValueError(
            f"threshold_stages: schedule={schedule!r}; allowed are 'linear', 'log', 'geometric' or a list."
        )
    if stages is None or stages < 2 or end is None or not 0 <= start < end:
        raise ValueError(
            f"threshold_stages: schedule={schedule!r} with start={start}, end={end}, stages={stages}; "
            "it needs stages >= 2 and 0 <= start < end (max_threshold)."
        )
    grid = [i / (stages - 1) for i in range(stages)]
    if schedule == "linear":
        return [start + (end - start) * u for u in grid]
    if schedule == "log":
        return [math.log(math.exp(start) + (math.exp(end) - math.exp(start)) * u) for u in grid]
    if start == 0:
        raise ValueError("threshold_stages: a geometric schedule cannot start at 0; give a start > 0, or use 'linear'.")
    return [start * (end / start) ** u for u in grid]
