"""Losses as functions of log-probabilities or rewards: preference losses by name, and those of reward models."""

from fulgurite.losses.completions import Completions, LossParts, Mean
from fulgurite.losses.groupwise import group_table, kway_loss, pairs_of_groups
from fulgurite.losses.metrics import means, preference_metrics
from fulgurite.losses.preference import PREFERENCE_LOSSES, PreferenceLoss
from fulgurite.losses.rewards import RewardLoss
from fulgurite.losses.unpaired import kl_baseline, kto_weight_warning

__all__ = [
    "PREFERENCE_LOSSES",
    "Completions",
    "LossParts",
    "Mean",
    "PreferenceLoss",
    "RewardLoss",
    "group_table",
    "kl_baseline",
    "kto_weight_warning",
    "kway_loss",
    "means",
    "pairs_of_groups",
    "preference_metrics",
]
