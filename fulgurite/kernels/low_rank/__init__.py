"""Linear layers with a gated low-rank branch (LoRA, SoRA)."""
