"""Log-probabilities of several models blended token by token (UltraFuser)."""
