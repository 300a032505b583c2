"""The campaign: everything that waits for a GPU, in small pieces of one command, ``python -m benchmarks.gpu``."""
