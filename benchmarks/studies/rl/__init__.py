"""Reinforcement learning on arithmetic: the playground's methods at equal numbers of drawn tokens, and a real model on GSM8K."""
