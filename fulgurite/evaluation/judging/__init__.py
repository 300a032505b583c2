"""Deciding whether an answer is right: by the sandbox, by comparing numbers and expressions, by comparing texts."""
