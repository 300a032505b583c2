"""`fulgurite evaluate`: benchmarks by generation, by the sandbox and by log-likelihood."""
