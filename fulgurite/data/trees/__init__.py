"""Preference trees: comparisons of one prompt share its tokens, trajectories share their beginnings."""
