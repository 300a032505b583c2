"""What the benchmarks time beside ours: plain PyTorch, PEFT, TRL, Liger, SHiRA, the papers' reference rules, frozen floors."""
