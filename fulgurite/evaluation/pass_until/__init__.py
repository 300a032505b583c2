"""PassUntil (arXiv 2310.03262): pass rates of any size with their errors, and the law by which they grow with a model's size."""
