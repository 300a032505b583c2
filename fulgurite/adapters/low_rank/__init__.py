"""LoRA and SoRA: the adapter, its merging, the retirement of ranks, and the export to PEFT."""
