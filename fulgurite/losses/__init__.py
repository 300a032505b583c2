"""Losses as functions of log-probabilities or rewards: preference losses by name, those of reward models, and policy losses."""

from fulgurite.losses.advantages import gae, group_relative, leave_one_out
from fulgurite.losses.completions import Completions, LossParts, Mean
from fulgurite.losses.groupwise import group_table, kway_loss, pairs_of_groups
from fulgurite.losses.metrics import means, preference_metrics
from fulgurite.losses.policy import PolicyLoss, kl_estimate, sampler_weights, value_loss
from fulgurite.losses.preference import PREFERENCE_LOSSES, PreferenceLoss
from fulgurite.losses.rewards import RewardLoss
from fulgurite.losses.unpaired import kl_baseline, kto_weight_warning

__all__ = [
    "PREFERENCE_LOSSES",
    "Completions",
    "LossParts",
    "Mean",
    "PolicyLoss",
    "PreferenceLoss",
    "RewardLoss",
    "gae",
    "group_relative",
    "group_table",
    "kl_baseline",
    "kl_estimate",
    "kto_weight_warning",
    "kway_loss",
    "leave_one_out",
    "means",
    "pairs_of_groups",
    "preference_metrics",
    "sampler_weights",
    "value_loss",
]
