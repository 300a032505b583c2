"""Callbacks for any Trainer: adapter checkpoints, random state, reports, pictures, and samples of data and answers."""

from fulgurite.callbacks.adapter_checkpoint import AdapterCheckpoint
from fulgurite.callbacks.gate_report import GateReport
from fulgurite.callbacks.generation_samples import GenerationSamples
from fulgurite.callbacks.learning_curve import LearningCurve
from fulgurite.callbacks.loggers.run_log import RunLog
from fulgurite.callbacks.random_state import RandomState
from fulgurite.callbacks.reward_report import RewardReport
from fulgurite.callbacks.rewards.policy_report import PolicyReport
from fulgurite.callbacks.rewards.reward_trend import RewardTrend
from fulgurite.callbacks.samples import SamplePrinter
from fulgurite.callbacks.sparsity import SparsityReport
from fulgurite.callbacks.throughput import Throughput

__all__ = [
    "AdapterCheckpoint",
    "GateReport",
    "GenerationSamples",
    "LearningCurve",
    "PolicyReport",
    "RandomState",
    "RewardReport",
    "RewardTrend",
    "RunLog",
    "SamplePrinter",
    "SparsityReport",
    "Throughput",
]
