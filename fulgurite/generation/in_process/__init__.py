"""Answers from a model in this process: the draws, the refilled batch, whole batches."""
