"""Several specialists as one network (UltraFuser), its decoding, and the arithmetic of their weights."""
