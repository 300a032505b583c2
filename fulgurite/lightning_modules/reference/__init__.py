"""Log-probabilities of the reference model: cached on disk, or computed in one pass over all rows."""
