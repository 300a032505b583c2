"""Objectives, the levels that an answer is conditioned on, and rated rows (controllable preference optimisation)."""
