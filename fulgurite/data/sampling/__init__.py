"""Which rows form a batch: windows of tokens, mixtures, balance, held-out rows, a loader that resumes."""
