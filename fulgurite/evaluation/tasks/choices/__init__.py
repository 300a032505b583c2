"""Tasks whose answer is one of several given texts: the one with the largest log-likelihood."""
