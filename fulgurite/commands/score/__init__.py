"""`fulgurite score`: rewards of a file's answers, or RewardBench."""
