"""Benchmarks of time and memory, one file per kernel or training step."""
