"""Benchmarks of reinforcement learning: the loss over a group of answers, and a whole step of GRPO."""
