"""Situations that a user can bring about and that might pass without a word: each must be refused, announced, or come out right."""
