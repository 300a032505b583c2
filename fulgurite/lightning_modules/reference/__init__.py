"""The reference model of preference training, and its log-probabilities: computed in one pass over all rows, cached on disk."""
