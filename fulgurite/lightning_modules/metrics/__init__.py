"""Metrics of each objective, by name."""
