"""Measurements: speed of kernels and training steps (run.py), and the science behind the tables (science.py)."""
