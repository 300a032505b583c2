"""Data modules of benchmarks, whose rows have right answers."""
