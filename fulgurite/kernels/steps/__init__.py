"""Optimizer steps as one launch: AdamW with a proximal step."""
