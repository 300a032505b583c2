"""Reward models: the head, the layouts of published checkpoints, and export."""
