"""What the arms of the study are called, for who only reads its file."""

__all__ = ["FULL", "METHODS", "ZERO"]

METHODS = ("crash", "uniform")
ZERO, FULL = "zero-shot", "full fine-tuning"
