"""Log-probabilities and cross-entropy of a linear head without the logits of all tokens at once."""
