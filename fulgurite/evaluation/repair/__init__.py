"""INTERVENOR (arXiv 2311.09868): programs repaired in turns by a learner, a teacher and what running them says."""
