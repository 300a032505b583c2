"""Optimizers and schedules: ProximalAdamW for gates, learning-rate and threshold schedules."""

from fulgurite.optim.proximal_adamw import ProximalAdamW
from fulgurite.optim.schedules import LR_SHAPES, StagedSchedule, threshold_stages

__all__ = ["LR_SHAPES", "ProximalAdamW", "StagedSchedule", "threshold_stages"]
