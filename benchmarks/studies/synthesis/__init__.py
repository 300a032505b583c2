"""Runs that measure how data is made: kills, throughput, pairs on real problems, and what is trained on them."""
