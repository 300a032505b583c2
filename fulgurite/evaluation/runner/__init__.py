"""Running an evaluation: samples and scores in files that only grow, and what they add up to."""
