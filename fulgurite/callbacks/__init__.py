"""Callbacks for any Trainer: adapter checkpoints, random state, throughput, sparsity report, sample printer."""

from fulgurite.callbacks.adapter_checkpoint import AdapterCheckpoint
from fulgurite.callbacks.random_state import RandomState
from fulgurite.callbacks.samples import SamplePrinter
from fulgurite.callbacks.sparsity import SparsityReport
from fulgurite.callbacks.throughput import Throughput

__all__ = ["AdapterCheckpoint", "RandomState", "SamplePrinter", "SparsityReport", "Throughput"]
